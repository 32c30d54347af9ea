"""The one way a similarity is computed before it lands in a table."""

import numpy as np

from curation.neighbours.compiled import compiled
from curation.neighbours.halves import widen

_CHUNK_ROWS = 512  # both sides as float32 stay in a core's cache; rows are independent, so the size changes no bit


def pair_similarities(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Row-wise inner products whose bits depend on nothing but the two rows.

    A matrix product may sum in another order when its shape or the number of threads changes. Here every row is
    multiplied in float64 and summed by halving: the upper half of the terms is added to the lower until one is left.
    So tables are equal for any partitioning, and on any machine.

    Args:
        a: [n, d] float16 or float32.
        b: [n, d], as ``a``.

    Returns:
        [n] float32; the cosine where rows have unit length.

    Raises:
        ValueError: the shapes differ.
    """
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"pair_similarities needs two arrays of one shape [n, d], not {a.shape} and {b.shape}")
    rows = np.arange(len(a))
    return similarities_of_rows(a, b, rows, rows)


def similarities_of_rows(a: np.ndarray, b: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """``pair_similarities(a[left], b[right])`` without a copy of all these rows.

    Args:
        a: [n, d] float16 or float32.
        b: [m, d], as ``a``.
        left: [p] int64 rows of ``a``; faster where equal ones follow each other.
        right: [p] int64 rows of ``b``.

    Returns:
        [p] float32.
    """
    result = np.empty(len(left), np.float32)
    if a.dtype == b.dtype == np.float16:
        a, b = (vectors.view(np.ndarray).view(np.uint16) for vectors in (a, b))
        _of_halves(a, b, left, right, result)
        return result
    for start in range(0, len(left), _CHUNK_ROWS):
        part = slice(start, start + _CHUNK_ROWS)
        ones, others = (np.ascontiguousarray(v[r[part]], np.float32) for v, r in ((a, left), (b, right)))
        _of_singles(ones, others, result[part])
    return result


@compiled
def halving_sum(a: np.ndarray, b: np.ndarray, terms: np.ndarray) -> np.float32:
    """What ``pair_similarities`` computes for one pair, to be called from compiled code.

    Args:
        a: [d] float32.
        b: [d] float32.
        terms: [max(d, 1)] float64, zeros at first; to be used again for the next pair.
    """
    for i in range(len(a)):
        terms[i] = np.float64(a[i]) * np.float64(b[i])
    width = len(a)
    while width > 1:
        half = (width + 1) // 2
        for i in range(width - half):
            terms[i] += terms[half + i]
        width = half
    return np.float32(terms[0])


@compiled
def _of_singles(a: np.ndarray, b: np.ndarray, result: np.ndarray) -> None:
    terms = np.zeros(max(a.shape[1], 1), np.float64)
    for row in range(len(a)):
        result[row] = halving_sum(a[row], b[row], terms)


@compiled
def _of_halves(a: np.ndarray, b: np.ndarray, left: np.ndarray, right: np.ndarray, result: np.ndarray) -> None:
    """The same of rows of float16, given as bits."""
    one, other = np.empty(a.shape[1], np.float32), np.empty(a.shape[1], np.float32)
    terms = np.zeros(max(a.shape[1], 1), np.float64)
    held = np.int64(-1)
    for pair in range(len(left)):
        if left[pair] != held:
            held = left[pair]
            widen(a[held], one)
        widen(b[right[pair]], other)
        result[pair] = halving_sum(one, other, terms)
