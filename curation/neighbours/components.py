"""Connected components of the graph of similar pairs (paper, appendix A: a scalable disjoint set).

One array of uint32 holds the state, 4 bytes a node whatever the number of edges, which stream past. So 1.3 billion
images take 5.2 GB, and 2**32 nodes are the limit. In parallel, every task reduces its share of the edges to forests by
:func:`forests`, at most one edge a node, and forests are edges like any other: adding them merges them.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from curation.neighbours.compiled import compiled

MAX_NODES = 2**32
_CHUNK_EDGES = 2**20  # edges converted, checked or given out at once: 8 MiB
_PENDING_EDGES = 2**22  # edges that wait for the next reduction, at least


class UnionFind:
    """Sets of nodes that streamed edges join; every set is known by its lowest node.

    A root only ever moves under a lower one, so the sets and their names are the same for any order, direction and
    repetition of the edges.
    """

    def __init__(self, num_nodes: int) -> None:
        """Every node 0 .. num_nodes - 1 starts alone.

        Raises:
            ValueError: more nodes than uint32 can number.
        """
        if not 0 <= num_nodes <= MAX_NODES:
            raise ValueError(f"{num_nodes} nodes: at most {MAX_NODES}; spark_jobs.stars joins larger graphs")
        self._parent = np.arange(num_nodes, dtype=np.uint32)  # of a node: itself or a lower one

    def add(self, edges: np.ndarray) -> None:
        """Join the two ends of every edge.

        Args:
            edges: [m, 2] integers; loops are allowed. Contiguous uint32 are read in place, others in chunks of 8 MiB.

        Raises:
            ValueError: they are no pairs of integers, or name a node outside the range. Edges before the chunk that
                holds it have been added.
        """
        if edges.ndim != 2 or edges.shape[1] != 2 or (len(edges) and edges.dtype.kind not in "iu"):
            raise ValueError(f"edges must be [m, 2] integers, not {list(edges.shape)} {edges.dtype}")
        for start in range(0, len(edges), _CHUNK_EDGES):
            chunk = edges[start : start + _CHUNK_EDGES]
            low, high = chunk.min(), chunk.max()
            if low < 0 or high >= len(self._parent):
                raise ValueError(f"edges name nodes {low} to {high}, outside 0 to {len(self._parent) - 1}")
            _join(self._parent, np.ascontiguousarray(chunk, np.uint32))

    def components(self) -> np.ndarray:
        """[n] uint32: the lowest node of every node's set. A read-only view that the next ``add`` changes."""
        _flatten(self._parent)
        view = self._parent.view()
        view.flags.writeable = False
        return view

    def forest(self) -> Iterator[np.ndarray]:
        """Edges (lowest node, node) for every node that is not the lowest, [m, 2] uint32 in chunks of at most 8 MiB."""
        _flatten(self._parent)
        for start in range(0, len(self._parent), _CHUNK_EDGES):
            roots = self._parent[start : start + _CHUNK_EDGES]
            nodes = np.arange(start, start + len(roots), dtype=np.uint32)
            inner = roots != nodes
            if inner.any():
                yield np.column_stack([roots[inner], nodes[inner]])


def connected_components(num_nodes: int, edges: np.ndarray | Iterable[np.ndarray]) -> np.ndarray:
    """Label every node with the lowest node of its component.

    Args:
        num_nodes: nodes are 0 .. num_nodes - 1.
        edges: [m, 2] integers, or any number of such arrays one after the other; order, direction, repetition and
            loops do not matter.

    Returns:
        [num_nodes] uint32, the only memory that grows with the graph.

    Raises:
        ValueError: an edge names a node outside the range, or there are more than 2**32 nodes.
    """
    sets = UnionFind(num_nodes)
    for part in [edges] if isinstance(edges, np.ndarray) else edges:
        sets.add(part)
    sets.components()
    return sets._parent


def spanning_forest(edges: np.ndarray) -> np.ndarray:
    """The least that must be told of some edges: one for every node they join to a lower one.

    What a task keeps of its share of the edges. The work and the memory follow from the edges, not from the number of
    nodes of the whole graph.

    Args:
        edges: [m, 2] integers from 0 to 2**32 - 1.

    Returns:
        [k, 2] uint32, k < number of distinct nodes: (lowest node of the component, node), by node.

    Raises:
        ValueError: an edge names a node outside the range.
    """
    nodes, position = np.unique(edges, return_inverse=True)
    if len(nodes) and not 0 <= nodes[0] <= nodes[-1] < MAX_NODES:
        raise ValueError(
            f"edges name nodes {nodes[0]} to {nodes[-1]}, outside 0 to {MAX_NODES - 1}; number them from 0, or join "
            "them by spark_jobs.stars"
        )
    roots = connected_components(len(nodes), position.reshape(-1, 2))
    inner = np.flatnonzero(roots != np.arange(len(nodes)))
    return np.column_stack([nodes[roots[inner]], nodes[inner]]).astype(np.uint32)


def forests(parts: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Reduce streamed edges by :func:`spanning_forest`, some million at a time.

    Args:
        parts: [m, 2] integers from 0 to 2**32 - 1, any number of such arrays.

    Yields:
        [k, 2] uint32 in chunks of at most 8 MiB: edges that join the same nodes, at most one a node.
    """
    held: list[np.ndarray] = [np.empty((0, 2), np.uint32)]
    num_new = 0
    for part in parts:
        held.append(part)
        num_new += len(part)
        if num_new >= max(_PENDING_EDGES, len(held[0])):
            held, num_new = [spanning_forest(np.concatenate(held))], 0
    forest = spanning_forest(np.concatenate(held))
    yield from (forest[start : start + _CHUNK_EDGES] for start in range(0, len(forest), _CHUNK_EDGES))


@compiled
def root(parent: np.ndarray, node: np.uint32) -> np.uint32:
    """The lowest node of a node's set; the path there is halved."""
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@compiled
def _join(parent: np.ndarray, edges: np.ndarray) -> None:
    """Union to the smaller id; ``parent`` [n] and ``edges`` [m, 2] are uint32."""
    for i in range(len(edges)):
        a, b = root(parent, edges[i, 0]), root(parent, edges[i, 1])
        if a < b:
            parent[b] = a
        else:  # the same root where it was joined before
            parent[a] = b


@compiled
def _flatten(parent: np.ndarray) -> None:
    """Point every node at its root: parents are lower than their children, so one pass upwards does."""
    for node in range(len(parent)):
        parent[node] = parent[parent[node]]
