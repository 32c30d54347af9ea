"""Spherical k-means (paper, appendix A: clusters for retrieval), equal for any batching, threads or partitions.

Three things make it so. A matrix product only proposes the nearest centroids, and exact arithmetic decides
(:mod:`curation.clusters.nearest`). Members are summed as fixed-point integers, whose sum has no order. And a round is
a pure function of the points and the centroids: what it knows from rounds before only saves it work.
"""

import heapq
from typing import Protocol

import numpy as np

from curation.clusters.nearest import GROUP, Groups, Moves, Nearest, Places, chunk_rows
from curation.clusters.start import SAMPLE_PER_CLUSTER, start
from curation.neighbours.compiled import compiled
from curation.neighbours.compute import in_order

_UNITS = 2.0**30  # of a component of a sum
_WEAK = 0.3  # of the mean spread
_MOST_WEAK = 16
_IN_FLIGHT_BYTES = 2**27  # chunks that threads work on or that wait for their turn
_FEWEST_GROUPS = 4  # with fewer, bounds save nothing


class Points(Protocol):
    """Vectors of unit length, [n, d] float16 or float32, that are read slice by slice; an array is such."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[n, d]."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> np.ndarray: ...


def train(
    points: Points,
    k: int,
    num_iterations: int,
    seed: int,
    memory_bytes: int | None = None,
    num_threads: int | None = None,
    *,
    moves_weak: bool = True,
) -> np.ndarray:
    """Centroids by Lloyd's rounds from a k-means++ start.

    Every round normalises the mean of each cell. Empty cells, and in the first half of the rounds those that hold next
    to nothing, move to where most is to be gained (:func:`refills`). Stops early when no centroid changes.

    Args:
        points: [n, d] float16 or float32 of unit length; the start is drawn from the first of them.
        k: number of centroids, at most n.
        num_iterations: rounds at most.
        seed: of the start.
        memory_bytes: see :class:`Lloyd`.
        num_threads: None: as many as torch uses.
        moves_weak: whether cells move that hold next to nothing; else only empty ones do.

    Returns:
        [k, d] float32 of unit length.

    Raises:
        ValueError: k is below 1 or above n; a point is not finite or too long; the memory does not do.
    """
    centroids = first_centroids(points, k, seed, num_threads)
    lloyd = Lloyd(points, k, memory_bytes, num_threads)
    for number in range(num_iterations):
        share = weak_share(number, num_iterations) if moves_weak else 0.0
        before, centroids = centroids, lloyd.improved(centroids, share)
        if np.array_equal(before, centroids):
            break
    return centroids


def first_centroids(points: Points, k: int, seed: int, num_threads: int | None = None) -> np.ndarray:
    """[k, d] float32: where :func:`train` starts.

    Raises:
        ValueError: k is below 1 or above the number of points.
    """
    if not 1 <= k <= len(points):
        raise ValueError(f"k = {k} clusters from {len(points)} vectors: k must lie between 1 and their number")
    sample = points[: start_size(len(points), k)]
    return sample[start(sample, k, seed, num_threads)].astype(np.float32)


def start_size(num_points: int, k: int) -> int:
    """How many of the first points a start is drawn from."""
    return min(num_points, max(SAMPLE_PER_CLUSTER * k, 4096))


class Lloyd:
    """Rounds over points in memory or in a file, with bounds from round to round as far as there is memory for them.

    Attributes:
        places: where the points belonged in the last round.
        groups: of centroids, which bounds are kept for; None: there are none.
        moves: of the centroids since the bounds began.
    """

    def __init__(self, points: Points, k: int, memory_bytes: int | None = None, num_threads: int | None = None) -> None:
        """Make room.

        Args:
            points: [n, d].
            k: number of centroids.
            memory_bytes: what rounds may take besides the points themselves, if these are in memory; None: what they
                can use. Changes how long they take, and nothing else.
            num_threads: None: as many as torch uses.

        Raises:
            ValueError: the memory is too little for the centroids and their sums.
        """
        self._points, self._num_threads = points, num_threads
        (num, dim), most = points.shape, -(-k // GROUP)
        if memory_bytes is not None:
            needed = needed_bytes(num, dim, k)
            if memory_bytes < needed:
                raise ValueError(f"{memory_bytes} bytes of memory: k-means of {num} x {dim}, k = {k} needs {needed}")
            most = min(most, (memory_bytes - needed) // (2 * num))
        self._num_groups = most if most >= _FEWEST_GROUPS else 0
        self.groups: Groups | None = None
        self.places = Places.unknown(num)
        self._centroids = np.empty((0, dim), np.float32)
        self.moves: Moves | None = None
        self._sums = np.zeros((k, dim), np.int64)
        self._counts = np.zeros(k, np.int64)

    def improved(self, centroids: np.ndarray, share: float = 0.0) -> np.ndarray:
        """One round: [k, d] float32 centroids to those of the next round; the share as in :func:`refills`."""
        self._assign(centroids)
        new = normalised(self._sums, centroids)
        weak, donors = refills(self._counts, spreads(self._sums, self._counts, centroids), share)
        refill(new, weak, donors, self._worst_placed(donors))
        return new

    def _assign(self, centroids: np.ndarray) -> None:
        if self.groups is None and self._num_groups:
            self.groups = Groups.of(centroids, self._num_groups)
            self.places = Places.unknown(len(self._points), len(self.groups))
            self.moves = Moves(np.zeros(len(self.groups)), np.empty(0, np.int64))
        elif self.groups is not None and self.moves is not None:
            self.moves = self.moves.further(self._centroids, centroids, self.groups)
        self._centroids = centroids
        nearest = Nearest(centroids, self.groups, self.moves)
        step = chunk_rows(self._points.shape[1])

        def update(first: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            vectors = self._points[first : first + step]
            places = self.places.rows(first, first + len(vectors))
            before = places.clusters.copy()
            nearest.update(vectors, places)
            gone = np.flatnonzero(before != places.clusters)
            return vectors[gone].astype(np.float32), before[gone], places.clusters[gone]

        for vectors, before, after in in_order(update, range(0, len(self._points), step), self._num_threads):
            _move(vectors, before, after, self._sums, self._counts)

    def _worst_placed(self, donors: dict[int, int]) -> np.ndarray:
        """[m, d] members of donors as :func:`refill` wants them."""
        rows = []
        for cluster, wanted in donors.items():
            members = np.flatnonzero(self.places.clusters == cluster)
            rows += members[np.lexsort((members, self.places.similarities[members]))[:wanted]].tolist()
        return np.array([self._points[row : row + 1][0] for row in rows], np.float32)


def needed_bytes(num_points: int, dim: int, k: int) -> int:
    """What :class:`Lloyd` needs at least besides its points."""
    return k * dim * (8 + 5 * 4) + num_points * 8 + _IN_FLIGHT_BYTES


def assign(points: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest centroid of every vector, ties by the lowest cluster.

    Args:
        points: [n, d] float16 or float32 of unit length.
        centroids: [k, d] float32 of unit length.

    Returns:
        clusters [n] int32 and cosine to the centroid [n] float32; no bit depends on which rows come together.
    """
    places = Places.unknown(len(points))
    Nearest(centroids).update(points, places)
    return places.clusters, places.similarities


def partial_sums(vectors: np.ndarray, clusters: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the members of every cluster; the sums of parts add up to exactly the sums of the whole.

    Returns:
        sums [k, d] int64 in units of 2**-30, and counts [k] int64.
    """
    sums, counts = np.zeros((k, vectors.shape[1]), np.int64), np.zeros(k, np.int64)
    step = chunk_rows(vectors.shape[1])
    for first in range(0, len(vectors), step):
        part = clusters[first : first + step].astype(np.int32)
        _move(vectors[first : first + step].astype(np.float32), np.full_like(part, -1), part, sums, counts)
    return sums, counts


def normalised(sums: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """[k, d] float32 unit vectors along the sums; the old centroid where a sum is zero."""
    result = np.array(centroids, np.float32)
    _normalise(sums, result)
    return result


def spreads(sums: np.ndarray, counts: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """[k] float64: the sum over every cell's members of 1 - cosine to its centroid."""
    result = np.empty(len(sums))
    _spreads(sums, counts, centroids, result)
    return result


def weak_share(number: int, num_iterations: int) -> float:
    """The share of :func:`refills` in a round, from 0: cells that move late would have no time to settle."""
    return _WEAK if number < num_iterations // 2 else 0.0


def refills(counts: np.ndarray, spread: np.ndarray, share: float) -> tuple[np.ndarray, dict[int, int]]:
    """Which cells move, and to whom: the cell of the widest spread is split, as if that halved it, and so on.

    A cell that holds little costs little when its members go to their next nearest; splitting a wide one saves more.
    Without this, inertia depends on the luck of the start.

    Args:
        counts: [k] members of every cell.
        spread: [k] of every cell, see :func:`spreads`.
        share: cells of a smaller spread than this share of the mean move, the smallest first, besides those that are
            empty; but no more than one in :data:`_MOST_WEAK`, as the rest must settle meanwhile.

    Returns:
        the cells that move, ascending, and how many come to each donor, in the order in which they first do; those of
        the first donor come first.
    """
    num_weak = np.count_nonzero(spread < share * spread.mean())
    num = max(np.count_nonzero(counts == 0), min(num_weak, len(counts) // _MOST_WEAK))
    weak = np.sort(np.lexsort((spread, counts > 0))[:num])
    moves = set(weak.tolist())
    widest = [(-wide, cell) for cell, wide in enumerate(spread.tolist()) if cell not in moves and wide > 0]
    heapq.heapify(widest)
    donors = dict[int, int]()
    for _ in weak:
        while widest and donors.get(widest[0][1], 0) + 1 >= counts[widest[0][1]]:
            heapq.heappop(widest)
        if not widest:
            break
        wide, cell = widest[0]
        donors[cell] = donors.get(cell, 0) + 1
        heapq.heapreplace(widest, (wide / 2, cell))
    return weak, donors


def refill(centroids: np.ndarray, weak: np.ndarray, donors: dict[int, int], members: np.ndarray) -> None:
    """Put cells that move half-way between a donor's centroid and its worst-placed members.

    Args:
        centroids: [k, d] float32; changed.
        weak: cells that move, as :func:`refills` gives them.
        donors: likewise.
        members: [m, d] float32, for each donor in turn as many as come to it, by their similarity to its centroid.
    """
    if donors:
        donor = np.repeat(list(donors), list(donors.values()))
        middles = (_UNITS * (centroids[donor].astype(np.float64) + members)).astype(np.int64)
        centroids[weak[: len(donor)]] = normalised(middles, members)


@compiled
def _spreads(sums: np.ndarray, counts: np.ndarray, centroids: np.ndarray, result: np.ndarray) -> None:
    for row in range(len(sums)):
        total = 0.0
        for i in range(sums.shape[1]):  # one after the other, so that no machine adds in another order
            total += np.float64(sums[row, i]) * np.float64(centroids[row, i])
        result[row] = max(np.float64(counts[row]) - total / 2.0**30, 0.0)


@compiled
def _normalise(sums: np.ndarray, result: np.ndarray) -> None:
    for row in range(len(sums)):
        total = 0.0
        for i in range(sums.shape[1]):  # one after the other, so that no machine adds in another order
            total += np.float64(sums[row, i]) * np.float64(sums[row, i])
        if total > 0:
            length = np.sqrt(total)
            for i in range(sums.shape[1]):
                result[row, i] = np.float32(np.float64(sums[row, i]) / length)


@compiled
def _move(vectors: np.ndarray, before: np.ndarray, after: np.ndarray, sums: np.ndarray, counts: np.ndarray) -> None:
    """Take vectors from the sums of the clusters they leave (-1: none) and add them to those they come to."""
    fixed = np.empty(vectors.shape[1], np.int64)
    for row in range(len(vectors)):
        for i in range(len(fixed)):  # vectorised
            fixed[i] = np.int64(np.rint(np.float64(vectors[row, i]) * 2.0**30))  # room for 2**33 members
        if before[row] >= 0:
            sums[before[row]] -= fixed
            counts[before[row]] -= 1
        sums[after[row]] += fixed
        counts[after[row]] += 1
