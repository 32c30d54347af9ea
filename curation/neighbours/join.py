"""The one function that finds all pairs of similar vectors of a set.

The spill join, after DINOv2's appendix A at the price of matrix products: every vector has a home, the nearest of its
lists, and visits the next few. In a list those at home are compared with each other and with the visitors, so a pair is
found where the home of one is among the nearest lists of the other. Comparing visitors with visitors too would
double the work for less than what one more visit brings (docs/results/join.md).
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np
import torch
from torch import Tensor

from curation.neighbours import tiles
from curation.neighbours.compiled import compiled
from curation.neighbours.compute import in_order
from curation.neighbours.quantiser import SAMPLE_PER_LIST, Quantiser
from curation.neighbours.tiles import BLOCK_ROWS, Pairs

_CHUNK_ROWS = 4096


@dataclass(frozen=True)
class Exact:
    """Every pair of vectors is compared."""


@dataclass(frozen=True)
class Spill:
    """Pairs are compared of which one's nearest list is among the nearest few of the other.

    Attributes:
        num_lists: the more, the less is compared and the more to find a vector's lists; None: where both cost the same.
        spill: number of nearest lists that a vector is looked for in; the more, the more pairs are found.
        seed: of the quantiser's training.
    """

    num_lists: int | None = None
    spill: int = 4
    seed: int = 0

    def lists_for(self, num_vectors: int) -> int:
        """``num_lists``, or what is chosen for this many vectors."""
        return self.num_lists or max(1, round((self.spill * num_vectors) ** 0.5))


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
        ValueError: the vectors are of another shape or dtype, or ``k`` is below 1.
    """
    if k is not None and k < 1:
        raise ValueError(f"k {k}: give 1 or more, or None to keep every pair")
    if isinstance(method, Exact):
        pairs = _exact(vectors, threshold, num_threads)
    else:
        pairs = _spilled(vectors, threshold, method, num_threads)
    return pairs if k is None else _nearest_only(pairs, len(vectors), k)


def _exact(vectors: np.ndarray, threshold: float, num_threads: int | None) -> Iterator[Pairs]:
    operand = tiles.operand(vectors)
    limit = tiles.limit_of(vectors, vectors, threshold)

    def strip(start: int) -> Pairs:
        left, right = tiles.candidates(operand[start : start + BLOCK_ROWS], operand[start:], limit)
        upper = left < right
        return tiles.verified(vectors, vectors, left[upper] + start, right[upper] + start, threshold)

    return in_order(strip, range(0, len(vectors), BLOCK_ROWS), num_threads)


def _spilled(vectors: np.ndarray, threshold: float, method: Spill, num_threads: int | None) -> Iterator[Pairs]:
    num_lists = min(method.lists_for(len(vectors)), max(1, len(vectors)))
    generator = np.random.default_rng(method.seed)
    sample = generator.permutation(len(vectors))[: num_lists * SAMPLE_PER_LIST]
    quantiser = Quantiser.train(vectors[np.sort(sample)], num_lists, method.seed, num_threads=num_threads)
    lists = quantiser.ranked(vectors, min(method.spill, num_lists), num_threads)

    rows, home_bounds = group(lists[:, :1], num_lists)  # rows by their home, so that those of a list lie together
    places = np.empty_like(rows)
    places[rows] = np.arange(len(rows), dtype=rows.dtype)
    visitors, visit_bounds = group(lists[:, 1:], num_lists)
    operand = _sorted_operand(vectors, rows, num_threads)
    limit = tiles.limit_of(vectors, vectors, threshold)

    def one_list(number: int) -> Pairs:
        first, last = home_bounds[number], home_bounds[number + 1]
        guests = visitors[visit_bounds[number] : visit_bounds[number + 1]]
        guest_operand = operand[torch.from_numpy(places[guests])]
        parts = []
        for start in range(first, last, BLOCK_ROWS):
            block = operand[start : min(start + BLOCK_ROWS, last)]
            host, other = tiles.candidates(block, operand[start:last], limit)
            upper = host < other
            host, other = rows[host[upper] + start], rows[other[upper] + start]
            parts.append((host, other))
            host, guest = tiles.candidates(block, guest_operand, limit)
            host, guest = rows[host + start], guests[guest]
            # such a pair meets again in the guest's home if the host visits it; the lower list gives it
            again = (lists[host] == lists[guest, :1]).any(axis=1) & (lists[guest, 0] < number)
            parts.append((host[~again], guest[~again]))
        a = np.concatenate([np.empty(0, np.int64), *(host for host, _ in parts)])
        b = np.concatenate([np.empty(0, np.int64), *(other for _, other in parts)])
        return tiles.verified(vectors, vectors, np.minimum(a, b), np.maximum(a, b), threshold)

    return in_order(one_list, range(num_lists), num_threads)


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


def _sorted_operand(vectors: np.ndarray, rows: np.ndarray, num_threads: int | None) -> Tensor:
    starts = range(0, len(rows), _CHUNK_ROWS)
    first = tiles.operand(vectors[:0])
    operand = torch.empty((len(rows), vectors.shape[1]), dtype=first.dtype, device=first.device)

    def fill(start: int) -> None:
        operand[start : start + _CHUNK_ROWS] = tiles.operand(vectors[rows[start : start + _CHUNK_ROWS]])

    for _ in in_order(fill, starts, num_threads):
        pass
    return operand


def _nearest_only(pairs: Iterator[Pairs], num_vectors: int, k: int) -> Iterator[Pairs]:
    """The pairs of which one is among the other's ``k`` most similar.

    Only a vector with more than ``k`` pairs can lose one: the first pass counts, the second finds the last place that
    stays of those crowded vectors, the third decides.
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
        crowded = degree > k
        last_similarity, last_other = np.full(num_vectors, -np.inf, np.float32), np.zeros(num_vectors, np.int64)
        sides = [side for part in _read(file, lengths) for side in _sides(part, crowded)]
        if sides:
            node, other, similarity = (np.concatenate(column) for column in zip(*sides, strict=True))
            order = np.lexsort((other, -similarity, node))
            first = np.flatnonzero(np.diff(node[order], prepend=-1))
            last = order[first + k - 1]
            last_similarity[node[last]], last_other[node[last]] = similarity[last], other[last]
        for part in _read(file, lengths):
            stays = np.zeros(len(part), bool)
            for one, two in ((part.left, part.right), (part.right, part.left)):
                stays |= part.similarity > last_similarity[one]
                stays |= (part.similarity == last_similarity[one]) & (two <= last_other[one])
            yield part.select(stays)


def _sides(pairs: Pairs, crowded: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Every pair as (vector, other, similarity) from each side whose vector is crowded."""
    for one, two in ((pairs.left, pairs.right), (pairs.right, pairs.left)):
        here = crowded[one]
        yield one[here], two[here], pairs.similarity[here]


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
