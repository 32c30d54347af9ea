"""The one way a similarity is computed before it lands in a table."""

import numpy as np

_CHUNK_ROWS = 4096  # bounds the float64 copies; rows are independent, so the size changes no bit


def pair_similarities(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Row-wise inner products whose bits depend on nothing but the two rows.

    A matrix product may sum in another order when its shape or the number of threads changes. Here every row is
    multiplied in float64 and summed by halving, so tables are equal for any partitioning, and on any machine.

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
    result = np.empty(len(a), np.float32)
    for start in range(0, len(a), _CHUNK_ROWS):
        rows = slice(start, start + _CHUNK_ROWS)
        result[rows] = _halving_sum(a[rows].astype(np.float64) * b[rows].astype(np.float64))
    return result


def _halving_sum(terms: np.ndarray) -> np.ndarray:
    """[n, d] -> [n]: add the upper half of the columns to the lower until one is left."""
    while terms.shape[1] > 1:
        half = (terms.shape[1] + 1) // 2
        rest = terms.shape[1] - half
        terms[:, :rest] += terms[:, half:]
        terms = terms[:, :half]
    return terms[:, 0] if terms.shape[1] else np.zeros(len(terms))
