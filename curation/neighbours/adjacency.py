"""The neighbours of every node, side by side in memory."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Adjacency:
    """An undirected graph with weighted edges; every edge is stored at both of its ends.

    Attributes:
        offsets: [num_nodes + 1] int64; the neighbours of node i are rows offsets[i] to offsets[i + 1].
        neighbours: [2 m] int64, of each node the most similar first, then the lower.
        similarities: [2 m] float32.
    """

    offsets: np.ndarray
    neighbours: np.ndarray
    similarities: np.ndarray

    @property
    def nodes(self) -> np.ndarray:
        """[2 m] int64: the node that each row belongs to."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


def adjacency(num_nodes: int, edges: np.ndarray, similarities: np.ndarray) -> Adjacency:
    """Neighbours of 0 .. num_nodes - 1.

    Args:
        num_nodes: above every node of an edge.
        edges: [m, 2] integers; order and direction do not matter, loops are passed over.
        similarities: [m] float32.
    """
    different = edges[:, 0] != edges[:, 1]
    edges, similarities = edges[different].astype(np.int64), np.asarray(similarities, np.float32)[different]
    nodes = np.concatenate([edges[:, 0], edges[:, 1]])
    neighbours = np.concatenate([edges[:, 1], edges[:, 0]])
    similarities = np.concatenate([similarities, similarities])
    order = np.lexsort((neighbours, -similarities, nodes))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(nodes, minlength=num_nodes))])
    return Adjacency(offsets, neighbours[order], similarities[order])
