"""The one function that finds all pairs of similar vectors of a set."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from curation.neighbours import tiles
from curation.neighbours.quantiser import Quantiser
from curation.neighbours.tiles import Pairs


@dataclass(frozen=True)
class Exact:
    """Every pair of vectors is compared."""


@dataclass(frozen=True)
class Spill:
    """Pairs are compared that share one of their nearest lists.

    Attributes:
        num_lists: the more, the less is compared; None: as many as cost least.
        spill: in how many nearest lists a vector is put; the more, the more pairs are found.
        seed: of the quantiser's training.
    """

    num_lists: int | None = None
    spill: int = 4
    seed: int = 0


def join(
    vectors: np.ndarray, threshold: float, *, k: int | None = None, method: Exact | Spill = Exact()
) -> Iterator[Pairs]:
    """All pairs of rows that are more similar than a threshold, streamed, each pair once.

    Args:
        vectors: [n, d] float16 or float32 of unit length.
        threshold: pairs with a similarity above it are given.
        k: where given, a pair stays only if one is among the other's k most similar (ties: the lower row).
        method: how pairs are found.

    Yields:
        Pairs with left < right.
    """
    pairs = _exact(vectors, threshold) if isinstance(method, Exact) else _spilled(vectors, threshold, method)
    return pairs if k is None else _mutual(pairs, k)


def _exact(vectors: np.ndarray, threshold: float) -> Iterator[Pairs]:
    yield tiles.within(vectors, threshold)


def _spilled(vectors: np.ndarray, threshold: float, method: Spill) -> Iterator[Pairs]:
    num_lists = method.num_lists or max(1, int(method.spill * (len(vectors) / 2) ** 0.5))
    quantiser = Quantiser.train(vectors, num_lists, method.seed)
    lists = quantiser.nearest(vectors, min(method.spill, num_lists))
    order = np.argsort(lists.ravel(), kind="stable")
    bounds = np.searchsorted(lists.ravel()[order], np.arange(num_lists + 1))
    for number in range(num_lists):
        rows = order[bounds[number] : bounds[number + 1]] // lists.shape[1]
        pairs = tiles.within(vectors[rows], threshold)
        left, right = rows[pairs.left], rows[pairs.right]
        first = first_shared(lists[left], lists[right]) == number
        yield Pairs(left[first], right[first], pairs.similarity[first])


def first_shared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[n, m] and [n, m] ascending -> [n]: the lowest list that both rows have, where alone their pair is given."""
    shared = (a[:, :, None] == b[:, None, :]).any(axis=2)
    return np.where(shared.any(axis=1), a[np.arange(len(a)), shared.argmax(axis=1)], -1)


def _mutual(pairs: Iterator[Pairs], k: int) -> Iterator[Pairs]:
    whole = Pairs.concatenate(list(pairs))
    node = np.concatenate([whole.left, whole.right])
    other = np.concatenate([whole.right, whole.left])
    order = np.lexsort((other, -np.tile(whole.similarity, 2), node))
    start = np.searchsorted(node[order], node[order])
    close = np.empty(len(node), bool)
    close[order] = np.arange(len(node)) - start < k
    yield whole.select(close[: len(whole)] | close[len(whole) :])
