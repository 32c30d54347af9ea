"""Connected components of the graph of similar pairs (paper, appendix A: a scalable disjoint set)."""

import numpy as np


def connected_components(num_nodes: int, edges: np.ndarray) -> np.ndarray:
    """Label every node with the lowest node of its component.

    Every edge hangs the higher of its two roots under the lowest root it meets, then all chains are shortened by
    pointer jumping; edges inside one tree are dropped. Roots only ever move to lower nodes, so the result is
    the same for any order of the edges. Memory: the labels and two integers an edge that is still open.

    Args:
        num_nodes: nodes are 0 .. num_nodes - 1.
        edges: [m, 2] integers; order, direction, repetition and loops do not matter.

    Returns:
        [num_nodes] int64.

    Raises:
        ValueError: an edge names a node outside the range.
    """
    edges = np.asarray(edges, np.int64).reshape(-1, 2)
    if len(edges) and not (edges.min() >= 0 and edges.max() < num_nodes):
        raise ValueError(f"edges name nodes {edges.min()} to {edges.max()}, outside 0 to {num_nodes - 1}")
    parent = np.arange(num_nodes, dtype=np.int64)
    while len(edges):
        roots = parent[edges]
        roots = roots[roots[:, 0] != roots[:, 1]]
        low, high = roots.min(axis=1), roots.max(axis=1)
        np.minimum.at(parent, high, low)
        while True:  # pointer jumping: parents are lower than children, so this ends at roots
            jumped = parent[parent]
            if np.array_equal(jumped, parent):
                break
            parent = jumped
        edges = roots
    return parent
