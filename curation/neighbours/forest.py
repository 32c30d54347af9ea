"""One pass over the edges, every threshold: a maximum spanning forest of the graph of similar pairs.

Two images are connected by edges above a threshold exactly if they are by edges of the forest above it. So at most
one edge a node answers at any threshold from the join's upwards, which otherwise takes another join.
"""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from curation.neighbours.compiled import compiled
from curation.neighbours.components import connected_components, root

_PENDING_EDGES = 2**23  # new edges that wait for the next reduction, at least: 96 MiB
_HALF, _LOW = np.uint64(32), np.uint64(2**32 - 1)


@dataclass(frozen=True)
class Count:
    """What a threshold would mean.

    Attributes:
        threshold: edges with a similarity above it count.
        num_groups: components of two or more nodes.
        num_grouped: nodes in them.
        largest: nodes of the largest component; 1 where no edge counts.
    """

    threshold: float
    num_groups: int
    num_grouped: int
    largest: int

    @property
    def num_dropped(self) -> int:
        """Images that go where one of each component stays."""
        return self.num_grouped - self.num_groups


@dataclass(frozen=True)
class Forest:
    """A maximum spanning forest.

    Attributes:
        num_nodes: nodes are 0 .. num_nodes - 1.
        floor: the edges it was made of are all those with a similarity above it.
        edges: [k, 2] uint32, k < num_nodes: (lower node, higher node), the most similar first, ties by their nodes.
        similarities: [k] float32, descending.
    """

    num_nodes: int
    floor: float
    edges: np.ndarray
    similarities: np.ndarray

    def components(self, threshold: float) -> np.ndarray:
        """[num_nodes] uint32: the lowest node of every node's component by edges above the threshold.

        Raises:
            ValueError: the threshold is below the floor.
        """
        return connected_components(self.num_nodes, self.edges[: self._num_above(threshold)])

    def counts(self, thresholds: Iterable[float]) -> list[Count]:
        """The counts at every threshold, in the order given, by one sweep over the forest.

        Raises:
            ValueError: a threshold is below the floor.
        """
        thresholds = list(thresholds)
        cuts = np.array([self._num_above(threshold) for threshold in thresholds], np.int64)
        order = np.argsort(cuts, kind="stable")
        counted = np.empty((len(cuts), 3), np.int64)
        counted[order] = _sweep(np.arange(self.num_nodes, dtype=np.uint32), self.edges, cuts[order])
        return [Count(threshold, *row) for threshold, row in zip(thresholds, counted.tolist(), strict=True)]

    def _num_above(self, threshold: float) -> int:
        if not threshold >= self.floor:  # which no NaN is
            raise ValueError(
                f"threshold {threshold} lies below {self.floor}, the one that this forest's edges were joined at; "
                "choose a higher one or join again"
            )
        return bisect_left(self.similarities, -np.float32(threshold), key=lambda similarity: -similarity)


def maximum_spanning_forest(
    num_nodes: int, parts: Iterable[tuple[np.ndarray, np.ndarray]], floor: float = -1.0
) -> Forest:
    """The forest of streamed edges, the same for any order and partition of them.

    It is unique, since ties of similarity go to the edge with the lower node, then with the lower other node. An edge
    that is the weakest of a cycle never comes back, so parts are reduced as they come: at any time the memory holds the
    forest, about as many new edges, and 4 bytes a node.

    Args:
        num_nodes: above every node of an edge, at most 2**32.
        parts: (edges [m, 2] integers, similarities [m] float32); direction and repetition do not matter.
        floor: all pairs with a similarity above it are among the edges.

    Raises:
        ValueError: an edge names a node outside the range, or a similarity is no number.
    """
    pending = [_packed(num_nodes, np.empty((0, 2), np.uint32), np.empty(0, np.float32))]
    num_pending = 0
    for edges, similarities in parts:
        pending.append(_packed(num_nodes, edges, similarities))
        num_pending += len(edges)
        if num_pending >= max(_PENDING_EDGES, len(pending[0][0])):
            pending, num_pending = [_reduced(num_nodes, pending)], 0
    pairs, similarities = _reduced(num_nodes, pending)
    return Forest(num_nodes, floor, np.column_stack([pairs >> 32, pairs & _LOW]).astype(np.uint32), similarities)


def merge(forests: Iterable[Forest]) -> Forest:
    """The forest of all edges that some forests of the same nodes were made of.

    Raises:
        ValueError: there is none, or their nodes or floors differ.
    """
    forests = list(forests)
    kinds = {(forest.num_nodes, forest.floor) for forest in forests}
    if len(kinds) != 1:
        raise ValueError(f"forests of one number of nodes and one floor can be merged, not of {sorted(kinds)}")
    num_nodes, floor = kinds.pop()
    return maximum_spanning_forest(num_nodes, ((f.edges, f.similarities) for f in forests), floor)


def _packed(num_nodes: int, edges: np.ndarray, similarities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges as words [m] uint64, the lower node above the higher one's 32 bits, and their similarities in float32."""
    if edges.shape != (len(similarities), 2) or np.isnan(similarities).any():
        raise ValueError(f"edges {list(edges.shape)} need as many similarities, all numbers, not {len(similarities)}")
    if len(edges) and not (edges.min() >= 0 and edges.max() < num_nodes):
        raise ValueError(f"edges name nodes {edges.min()} to {edges.max()}, outside 0 to {num_nodes - 1}")
    lower, higher = np.minimum(edges[:, 0], edges[:, 1]), np.maximum(edges[:, 0], edges[:, 1])
    return lower.astype(np.uint64) << 32 | higher.astype(np.uint64), similarities.astype(np.float32)


def _reduced(num_nodes: int, parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Kruskal's algorithm on all parts together."""
    pairs = np.concatenate([pairs for pairs, _ in parts])
    similarities = np.concatenate([similarities for _, similarities in parts])
    order = _strongest_first(similarities)
    kept = np.empty(min(len(pairs), num_nodes), np.float32)
    count = _kruskal(np.arange(num_nodes, dtype=np.uint32), pairs, similarities, order, kept)
    return order[:count].copy(), kept[:count].copy()


def _strongest_first(similarities: np.ndarray) -> np.ndarray:
    """[m] uint64, ascending: above, 32 bits that fall as the similarity rises; below, the position of the edge."""
    bits = (similarities + np.float32(0)).view(np.uint32)  # + 0 makes one zero of two
    falling = np.where(bits >> 31, bits, ~(bits | np.uint32(2**31)))
    words = falling.astype(np.uint64) << 32 | np.arange(len(bits), dtype=np.uint64)
    words.sort()
    return words


@compiled
def _sort(words: np.ndarray) -> None:
    """Sort in place, by insertion where there are few: the general sort takes longer to set out."""
    if len(words) > 32:
        words.sort()
        return
    for i in range(1, len(words)):
        word, j = words[i], i
        while j > 0 and words[j - 1] > word:
            words[j] = words[j - 1]
            j -= 1
        words[j] = word


@compiled
def _kruskal(
    parent: np.ndarray, pairs: np.ndarray, similarities: np.ndarray, order: np.ndarray, kept: np.ndarray
) -> int:
    """Replace the front of ``order`` by the pairs that join two trees, write their similarities, and count them.

    Edges of one similarity are sorted by their nodes, but for those whose ends are connected already: few are left.
    """
    count, start = 0, 0
    while start < len(order):
        bits, similarity = order[start] >> _HALF, similarities[order[start] & _LOW]
        end, run = start, count  # what is written never overtakes what is read
        while end < len(order) and order[end] >> _HALF == bits:
            pair = pairs[order[end] & _LOW]
            end += 1
            if root(parent, pair >> _HALF) != root(parent, pair & _LOW):
                order[run] = pair
                run += 1
        _sort(order[count:run])
        for i in range(count, run):
            pair = order[i]
            a, b = root(parent, pair >> _HALF), root(parent, pair & _LOW)
            if a != b:
                parent[max(a, b)] = min(a, b)
                order[count], kept[count] = pair, similarity
                count += 1
        start = end
    return count


@compiled
def _sweep(parent: np.ndarray, edges: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """[t, 3] int64: groups, nodes in groups and the largest, after the first ``cuts[i]`` edges; ``cuts`` ascend."""
    sizes = np.ones(len(parent), np.uint32)
    counted = np.empty((len(cuts), 3), np.int64)
    num_groups, num_grouped, largest = 0, 0, min(1, len(parent))
    done = 0
    for cut in range(len(cuts)):
        for i in range(done, cuts[cut]):
            a, b = root(parent, edges[i, 0]), root(parent, edges[i, 1])
            a, b = min(a, b), max(a, b)
            alone = (sizes[a] == 1) + (sizes[b] == 1)
            num_groups += alone - 1  # two groups become one, one takes in a node, or two nodes make one
            num_grouped += alone
            parent[b] = a
            sizes[a] += sizes[b]
            largest = max(largest, sizes[a])
        done = cuts[cut]
        counted[cut, 0], counted[cut, 1], counted[cut, 2] = num_groups, num_grouped, largest
    return counted
