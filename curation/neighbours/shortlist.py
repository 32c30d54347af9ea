"""The rows that may be among the k most similar of each query, kept while blocks of rounded products pass by."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from curation.neighbours.compiled import compiled

GROUP = 64  # products of which the largest is looked at first
_ROOM = 4  # rows that a list holds, for each of the k
_ROUNDING = {torch.bfloat16: 2.0**-7, torch.float32: 0.0}  # twice what a product moves by when it is stored, and more
_SLACK = 2 * (1 + 2.0**-6)  # errors of a product and of the k-th best, and rounding in here


class Shortlists:
    """One list of rows for each query.

    A product differs from the similarity that it stands for by some error at most. So a row whose product is below the
    k-th best by more than two errors is not among the k most similar, and is let go. Where a list is full of rows
    closer than that, as of clones, they are ranked exactly.
    """

    def __init__(self, num_queries: int, k: int, best: Callable[[int, np.ndarray], np.ndarray]) -> None:
        """Start with empty lists.

        Args:
            num_queries: lists.
            k: rows wanted of each.
            best: of a query and rows [r] the places [k] of the k most similar.
        """
        self._k, self._best = k, best
        self._values = np.empty((num_queries, _ROOM * k + GROUP), np.float32)
        self._rows = np.empty(self._values.shape, np.int64)
        self._counts = np.zeros(num_queries, np.int64)
        self._limits = np.full(num_queries, -np.inf, np.float32)
        self._slack = self._rounding = 0.0

    def offer(self, products: Tensor, queries: np.ndarray, rows: np.ndarray, error: float) -> None:
        """Keep what may be among the best.

        Args:
            products: [m, n] bfloat16 or float32 on the CPU, with what fills up both sides; n is a multiple of
                :data:`GROUP`.
            queries: [q] int64, the lists that the first rows of the products belong to.
            rows: [r] int64, the rows that the first columns belong to; none comes twice to a query.
            error: by which a product, before it is stored, differs from the similarity at most.
        """
        self._slack, self._rounding = max(self._slack, _SLACK * error), _ROUNDING[products.dtype]
        bits = products.view(torch.int16 if products.dtype == torch.bfloat16 else torch.int32).numpy()
        grouped = bits.reshape(len(bits), -1, GROUP)
        values, limits = (self._values, self._values.view(np.int32)), (self._limits, self._limits.view(np.int32))
        place = 0
        while place < (end := len(queries) * bits.shape[1]):
            place = _scan(grouped, queries, rows, place, *values, self._rows, self._counts, *limits, *self._tolerance)
            if place < end:
                self._settle(queries[place // bits.shape[1]])

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Query [m] int64, ascending, and row [m] int64 of all that may be among the k most similar."""
        _shorten_all(self._values, self._rows, self._counts, self._limits, *self._tolerance)
        query = np.repeat(np.arange(len(self._counts)), self._counts)
        column = np.arange(len(query)) - np.repeat(np.cumsum(self._counts) - self._counts, self._counts)
        return query, self._rows[query, column]

    @property
    def _tolerance(self) -> tuple[int, float, float]:
        return self._k, self._slack, self._rounding

    def _settle(self, query: int) -> None:
        kept = self._best(query, self._rows[query])
        for held in (self._values, self._rows):
            held[query, : self._k] = held[query, kept]
        self._counts[query] = self._k


@compiled
def _scan(
    bits: np.ndarray,
    queries: np.ndarray,
    rows: np.ndarray,
    place: int,
    values: np.ndarray,
    value_bits: np.ndarray,
    listed: np.ndarray,
    counts: np.ndarray,
    limits: np.ndarray,
    limit_bits: np.ndarray,
    k: int,
    slack: float,
    rounding: float,
) -> int:
    """Look through products [m, groups, 64], given as bits, from a place on, to the end or where a list is full.

    Positive floats are in the order of their bits, and negative ones lie below: so where the limit is positive, whole
    numbers are compared, many at once.
    """
    shift = 32 - 8 * bits.itemsize
    width = bits.shape[1] * GROUP
    bound = np.empty(1, bits.dtype)  # of the width of the products, as no expression is
    for i in range(place // width, len(queries)):
        query = queries[i]
        bound[0] = max(limit_bits[query] >> shift, 0) - 1
        below = bound[0]
        group, first = place % width // GROUP, place % GROUP
        place = 0
        while group * GROUP < len(rows):
            most = below
            for j in range(bits.shape[2]):  # vectorised, as it is not with a known number
                value = bits[i, group, j]
                most = value if value > most else most
            if most > below or below < 0:
                for j in range(first, min(GROUP, len(rows) - group * GROUP)):
                    if below >= 0 and bits[i, group, j] <= below:
                        continue
                    if counts[query] == values.shape[1]:
                        _shorten(values, listed, counts, limits, query, k, slack, rounding)
                        bound[0] = max(limit_bits[query] >> shift, 0) - 1
                        below = bound[0]
                        if counts[query] == values.shape[1]:
                            return i * width + group * GROUP + j
                    value_bits[query, counts[query]] = np.int32(bits[i, group, j]) << shift
                    listed[query, counts[query]] = rows[group * GROUP + j]
                    counts[query] += 1
            group, first = group + 1, 0
    return len(queries) * width


@compiled
def _shorten(
    values: np.ndarray,
    listed: np.ndarray,
    counts: np.ndarray,
    limits: np.ndarray,
    query: int,
    k: int,
    slack: float,
    rounding: float,
) -> None:
    """Raise a list's limit, and let go what is below."""
    count = counts[query]
    if count > k:
        last = np.partition(values[query, :count], count - k)[count - k]
        limits[query] = max(limits[query], np.float32(last - abs(last) * rounding - slack))
    kept = 0
    for column in range(count):
        if values[query, column] >= limits[query]:
            values[query, kept] = values[query, column]
            listed[query, kept] = listed[query, column]
            kept += 1
    counts[query] = kept


@compiled
def _shorten_all(
    values: np.ndarray,
    listed: np.ndarray,
    counts: np.ndarray,
    limits: np.ndarray,
    k: int,
    slack: float,
    rounding: float,
) -> None:
    for query in range(len(counts)):
        _shorten(values, listed, counts, limits, query, k, slack, rounding)
