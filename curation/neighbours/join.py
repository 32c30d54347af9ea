"""The one function that finds all pairs of similar vectors of a set.

The spill join, after DINOv2's appendix A at the price of matrix products: every vector has a home, the nearest of its
lists, and visits the next few. In a list those at home are compared with each other and with the visitors, so a pair is
found where the home of one is among the nearest lists of the other. Comparing visitors with visitors too would
double the work for less than what one more visit brings (docs/results/join.md).
"""

import math
import tempfile
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np

from curation.neighbours import tiles
from curation.neighbours.compiled import compiled
from curation.neighbours.compute import in_order
from curation.neighbours.finite import refuse_non_finite
from curation.neighbours.quantiser import NUM_ROUNDS, SAMPLE_PER_LIST, Quantiser
from curation.neighbours.tiles import BLOCK_ROWS, Pairs, Strips

UNEQUAL = 1.3  # mean square of the lists' lengths over the square of their mean, as k-means left them
_PLACES_BYTES = 2**28  # of the best pairs of crowded vectors; those that do not fit take another pass over the file


@dataclass(frozen=True)
class Exact:
    """Every pair of vectors is compared."""


@dataclass(frozen=True)
class Spill:
    """Pairs are compared of which one's nearest list is among the nearest few of the other.

    Attributes:
        num_lists: the more, the less is compared and the more it costs to train them and to find a vector's; None: that
            many for which all of it together is the least work.
        spill: number of nearest lists that a vector is looked for in; the more, the more pairs are found.
        seed: of the quantiser's training.
    """

    num_lists: int | None = None
    spill: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_lists is not None and self.num_lists < 1:
            raise ValueError(f"num_lists {self.num_lists}: give 1 or more, or None to choose by the number of vectors")
        if self.spill < 1:
            raise ValueError(f"spill {self.spill}: give 1 or more, since a vector is in its nearest list at least")

    def lists_for(self, num_vectors: int) -> int:
        """``num_lists``, or what is chosen for this many vectors.

        For n vectors in m of K lists, products of vectors number r s K^2 in training (r rounds over s vectors a list),
        n K for the lists of every vector, and UNEQUAL m n^2 / K for the pairs. The sum is least where
        K^2 (n + 2 r s K) = UNEQUAL m n^2.
        """
        if self.num_lists is not None:
            return self.num_lists
        slope, aim = 2 * NUM_ROUNDS * SAMPLE_PER_LIST, UNEQUAL * self.spill * num_vectors**2
        return bisect_left(range(1, max(2, num_vectors)), aim, key=lambda k: k * k * (num_vectors + slope * k)) + 1


def join(
    vectors: np.ndarray,
    threshold: float,
    *,
    k: int | None = None,
    method: Exact | Spill = Exact(),
    num_threads: int | None = None,
) -> Iterator[Pairs]:
    """All pairs of rows that are more similar than a threshold, streamed, each pair once.

    The pairs and their order are the same for any number of threads, and on any machine.

    Args:
        vectors: [n, d] float16 or float32; the similarity is the cosine where rows have unit length.
        threshold: pairs with a similarity above it are given.
        k: where given, a pair stays only if one is among the other's ``k`` most similar (ties: the lower row).
            The pairs then wait in a temporary file, 20 bytes each, until all are found.
        method: how pairs are found.
        num_threads: None: as many as torch uses.

    Yields:
        Pairs with left < right.

    Raises:
        ValueError: the vectors are of another shape or dtype, one of them or the threshold is not finite, or ``k`` is
            below 1.
    """
    if not math.isfinite(threshold):
        raise ValueError(f"threshold {threshold}: give a number")
    if k is not None and k < 1:
        raise ValueError(f"k {k}: give 1 or more, or None to keep every pair")
    if isinstance(method, Exact):
        pairs = _exact(vectors, threshold, num_threads)
    else:
        pairs = _spilled(vectors, threshold, method, num_threads)
    return pairs if k is None else _nearest_only(pairs, len(vectors), k)


def _exact(vectors: np.ndarray, threshold: float, num_threads: int | None) -> Iterator[Pairs]:
    strips = Strips(vectors, threshold)
    return in_order(lambda start: strips.pairs(start, len(vectors)), range(0, len(vectors), BLOCK_ROWS), num_threads)


def _spilled(vectors: np.ndarray, threshold: float, method: Spill, num_threads: int | None) -> Iterator[Pairs]:
    refuse_non_finite(vectors, "the vectors")
    num_lists = min(method.lists_for(len(vectors)), max(1, len(vectors)))
    drawn = np.random.default_rng(method.seed).permutation(len(vectors))[: num_lists * SAMPLE_PER_LIST]
    sample = vectors[np.sort(drawn)]
    num_lists = min(num_lists, max(1, int(sample.any(axis=1).sum())))  # zeros are no point to start a list from
    quantiser = Quantiser.train(sample, num_lists, method.seed, num_threads=num_threads)
    lists = quantiser.ranked(vectors, min(method.spill, num_lists), num_threads)
    hosts, host_bounds = group(lists[:, :1], num_lists)
    guests, guest_bounds = group(lists[:, 1:], num_lists)

    def one_list(number: int) -> Pairs:
        at_home = hosts[host_bounds[number] : host_bounds[number + 1]]
        rows = np.concatenate([at_home, guests[guest_bounds[number] : guest_bounds[number + 1]]])
        return pairs_of_list(vectors[rows], lists[rows], rows, number, len(at_home), threshold)

    return in_order(one_list, range(num_lists), num_threads)


def pairs_of_list(
    vectors: np.ndarray, lists: np.ndarray, rows: np.ndarray, number: int, num_hosts: int, threshold: float
) -> Pairs:
    """What one list gives to the spill join: together, all lists give each pair once.

    A pair of a host and a guest meets again in the guest's home if the host visits that; the lower list gives it.

    Args:
        vectors: [n, d] float16 or float32: those at home first, then the guests.
        lists: [n, m] int32, the nearest lists of each, as ``Quantiser.ranked`` gives them.
        rows: [n] int64, what the vectors are called in the pairs.
        number: of the list.
        num_hosts: how many are at home.
        threshold: pairs with a similarity above it are given.

    Returns:
        Pairs of rows with left < right, by left, then right.
    """
    pairs = tiles.within(vectors, threshold, num_hosts=num_hosts)
    pairs = pairs.select(meeting_list(lists[pairs.left], lists[pairs.right]) == number)
    left, right = rows[pairs.left], rows[pairs.right]
    left, right = np.minimum(left, right), np.maximum(left, right)
    order = np.lexsort((right, left))
    return Pairs(left[order], right[order], pairs.similarity[order])


def meeting_list(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The one list in which a pair is compared: a home of one that the other is in, the lower of two; -1 where none is.

    Args:
        a: [n, m] lists of one vector of each pair, its home first.
        b: [n, m] lists of the other.

    Returns:
        [n] int32.
    """
    nowhere = np.iinfo(np.int32).max
    at_a = np.where((b == a[:, :1]).any(axis=1), a[:, 0], nowhere)
    at_b = np.where((a == b[:, :1]).any(axis=1), b[:, 0], nowhere)
    lowest = np.minimum(at_a, at_b)
    return np.where(lowest == nowhere, -1, lowest)


def group(lists: np.ndarray, num_lists: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows by the lists they are in.

    Args:
        lists: [n, m] integers below ``num_lists``.
        num_lists: number of lists.

    Returns:
        Rows [n * m] int64, ascending within a list, and bounds [num_lists + 1] int64: list i has the rows from
        bound i to bound i + 1.
    """
    bounds = np.zeros(num_lists + 1, np.int64)
    np.cumsum(np.bincount(lists.ravel(), minlength=num_lists), out=bounds[1:])
    rows = np.empty(lists.size, np.int64)
    _deal(np.ascontiguousarray(lists), bounds[:-1].copy(), rows)
    return rows, bounds


def _nearest_only(pairs: Iterator[Pairs], num_vectors: int, k: int) -> Iterator[Pairs]:
    """The pairs of which one is among the other's ``k`` most similar.

    Only a vector with more than ``k`` pairs can lose one. The first pass counts; the next find the last place that
    stays of those crowded vectors, as many at a time as :data:`_PLACES_BYTES` hold; the last pass decides.
    """
    with tempfile.TemporaryFile() as file:
        degree = np.zeros(num_vectors, np.uint32)
        lengths = []
        for part in pairs:
            np.add.at(degree, part.left, 1)
            np.add.at(degree, part.right, 1)
            for column in (part.left, part.right, part.similarity):
                file.write(column.tobytes())
            lengths.append(len(part))
        crowded = np.flatnonzero(degree > k)
        last_similarity, last_other = np.full(num_vectors, -np.inf, np.float32), np.zeros(num_vectors, np.int64)
        at_once = max(1, _PLACES_BYTES // (12 * k))
        for start in range(0, len(crowded), at_once):
            nodes = crowded[start : start + at_once]
            place = np.full(num_vectors, -1, np.int64)
            place[nodes] = np.arange(len(nodes))
            similarity = np.full((len(nodes), k), -np.inf, np.float32)
            other = np.full((len(nodes), k), num_vectors, np.int64)
            for part in _read(file, lengths):
                _insert(part.left, part.right, part.similarity, place, similarity, other)
                _insert(part.right, part.left, part.similarity, place, similarity, other)
            last_similarity[nodes], last_other[nodes] = similarity[:, -1], other[:, -1]
        for part in _read(file, lengths):
            stays = np.zeros(len(part), bool)
            for one, two in ((part.left, part.right), (part.right, part.left)):
                stays |= part.similarity > last_similarity[one]
                stays |= (part.similarity == last_similarity[one]) & (two <= last_other[one])
            yield part.select(stays)


@compiled
def _insert(
    one: np.ndarray, two: np.ndarray, scores: np.ndarray, place: np.ndarray, similarity: np.ndarray, other: np.ndarray
) -> None:
    """Put pairs among the best [places, k] of those vectors that have a place: by similarity, ties by the lower row."""
    last = similarity.shape[1] - 1
    for pair in range(len(one)):
        at = place[one[pair]]
        if at < 0:
            continue
        best, rows, score, row = similarity[at], other[at], scores[pair], two[pair]
        if score < best[last] or (score == best[last] and row > rows[last]):
            continue
        i = last
        while i > 0 and (score > best[i - 1] or (score == best[i - 1] and row < rows[i - 1])):
            best[i], rows[i] = best[i - 1], rows[i - 1]
            i -= 1
        best[i], rows[i] = score, row


def _read(file: IO[bytes], lengths: list[int]) -> Iterator[Pairs]:
    file.seek(0)
    for length in lengths:
        left, right = (np.frombuffer(file.read(8 * length), np.int64) for _ in range(2))
        yield Pairs(left, right, np.frombuffer(file.read(4 * length), np.float32))


@compiled
def _deal(lists: np.ndarray, places: np.ndarray, rows: np.ndarray) -> None:
    for row in range(lists.shape[0]):
        for column in range(lists.shape[1]):
            rows[places[lists[row, column]]] = row
            places[lists[row, column]] += 1
