"""Vectors rounded to bfloat16 in one pass over them, with what bounds the error of their products."""

import math
from typing import Any

import numpy as np

from curation.neighbours.compiled import compiled
from curation.neighbours.halves import widen


def round_rows(vectors: np.ndarray, rounded: np.ndarray) -> tuple[float, float]:
    """Round rows to the nearest bfloat16, ties to even.

    torch does the same in six passes with four copies as long, which take several times as long as a product with them.

    Args:
        vectors: [n, d] float16 or float32, C-contiguous.
        rounded: [n, d] int16 that takes the bits.

    Returns:
        The length of the longest row and of the longest difference of a row and its rounded row, both as float32 sums
        of squares have it; the first is infinite where a row is not finite or the sum overflows.
    """
    bits, round_bits = (
        (vectors.view(np.uint16), _round_halves) if vectors.dtype == np.float16 else (vectors, _round_singles)
    )
    longest, moved = round_bits(bits, rounded)
    return math.sqrt(longest), math.sqrt(moved)


@compiled(may_reorder_sums=True)
def _round_halves(halves: np.ndarray, rounded: np.ndarray) -> Any:
    exact = np.empty(halves.shape[1], np.float32)
    bits = exact.view(np.uint32)
    back = np.empty_like(exact)
    longest = moved = np.float32(0)
    for row in range(len(halves)):
        finite = widen(halves[row], exact)
        length, error = _round_row(exact, bits, back, rounded[row])
        if not finite:
            length = np.float32(np.inf)
        longest, moved = max(longest, length), max(moved, error)
    return longest, moved


@compiled(may_reorder_sums=True)
def _round_singles(singles: np.ndarray, rounded: np.ndarray) -> Any:
    bits = singles.view(np.uint32)
    back = np.empty(singles.shape[1], np.float32)
    longest = moved = np.float32(0)
    for row in range(len(singles)):
        length, error = _round_row(singles[row], bits[row], back, rounded[row])
        if not length < np.inf:
            length = np.float32(np.inf)
        longest, moved = max(longest, length), max(moved, error)
    return longest, moved


@compiled(may_reorder_sums=True)
def _round_row(exact: np.ndarray, bits: np.ndarray, back: np.ndarray, rounded: np.ndarray) -> Any:
    """Squared lengths of a row and of its difference to the rounded one."""
    back_bits = back.view(np.uint32)
    for i in range(len(exact)):
        upper = (bits[i] + np.uint32(0x7FFF) + ((bits[i] >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        back_bits[i] = upper << np.uint32(16)
        rounded[i] = np.int16(np.uint16(upper))
    length = error = np.float32(0)
    for i in range(len(exact)):
        length += exact[i] * exact[i]
        difference = exact[i] - back[i]
        error += difference * difference
    return length, error
