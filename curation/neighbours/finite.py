"""Vectors that searches and joins refuse."""

import numpy as np

REMEDY = "nothing is similar to it; embed that image again or leave it out"
_CHUNK_ROWS = 8192


def refuse_non_finite(vectors: np.ndarray, what: str) -> None:
    """Raise where a vector has a term that is no finite number.

    Args:
        vectors: [n, d] floats.
        what: the vectors are, in the message.

    Raises:
        ValueError: names the first such row.
    """
    for start in range(0, len(vectors), _CHUNK_ROWS):
        finite = np.isfinite(vectors[start : start + _CHUNK_ROWS]).all(axis=1)
        if not finite.all():
            raise ValueError(f"row {start + int(np.argmin(finite))} of {what} is not finite; {REMEDY}")
