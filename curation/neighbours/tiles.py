"""All pairs above a threshold of one or two tiles of vectors: a matrix product finds them, exact arithmetic decides."""

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from curation.neighbours.similarity import pair_similarities

_BLOCK_ROWS = 1024  # a block of products and its two operands stay in a core's cache
_BF16_ERROR = 2.0**-8 + 2.0**-9 + 2.0**-12  # of both operands, of the rounded product, of the sums in between
_FP32_ERROR = 2.0**-12


@dataclass(frozen=True)
class Pairs:
    """Pairs of rows and how similar they are.

    Attributes:
        left: [m] int64 rows.
        right: [m] int64 rows.
        similarity: [m] float32, as ``pair_similarities`` computes it.
    """

    left: np.ndarray
    right: np.ndarray
    similarity: np.ndarray

    def __len__(self) -> int:
        return len(self.left)

    @classmethod
    def concatenate(cls, parts: "Sequence[Pairs]") -> "Pairs":
        """The pairs of all parts, in their order."""
        return cls(
            np.concatenate([np.empty(0, np.int64), *(part.left for part in parts)]),
            np.concatenate([np.empty(0, np.int64), *(part.right for part in parts)]),
            np.concatenate([np.empty(0, np.float32), *(part.similarity for part in parts)]),
        )

    def select(self, which: np.ndarray) -> "Pairs":
        """The pairs at these positions, or where a mask holds."""
        return Pairs(self.left[which], self.right[which], self.similarity[which])


def within(vectors: np.ndarray, threshold: float) -> Pairs:
    """All pairs of rows of one tile that are more similar than a threshold.

    Args:
        vectors: [n, d] float16 or float32; the cosine is meant where rows have unit length.
        threshold: pairs with a similarity above it are returned.

    Returns:
        Pairs with left < right, by left, then right.

    Raises:
        ValueError: the vectors are of another shape or dtype.
    """
    return _similar(vectors, vectors, threshold, same=True)


def between(a: np.ndarray, b: np.ndarray, threshold: float) -> Pairs:
    """All pairs of a row of one tile and a row of another that are more similar than a threshold.

    Args:
        a: [n, d] float16 or float32.
        b: [m, d] of the same dtype.
        threshold: pairs with a similarity above it are returned.

    Returns:
        Pairs whose left is a row of ``a`` and right a row of ``b``, by left, then right.

    Raises:
        ValueError: the vectors are of another shape or dtype, or differ in either.
    """
    if a.shape[1:] != b.shape[1:] or a.dtype != b.dtype:
        raise ValueError(
            f"two tiles of one dimension and dtype are needed, not {a.shape} {a.dtype}, {b.shape} {b.dtype}"
        )
    return _similar(a, b, threshold, same=False)


def _similar(a: np.ndarray, b: np.ndarray, threshold: float, *, same: bool) -> Pairs:
    for vectors in (a, b):
        if vectors.ndim != 2 or vectors.dtype not in (np.float16, np.float32):
            raise ValueError(f"a tile is [n, d] of float16 or float32, not {vectors.shape} of {vectors.dtype}")
    if not len(a) or not len(b):
        return Pairs.concatenate([])
    dtype = _fast_dtype(_device())
    left_operand = _operand(a, dtype)
    right_operand = left_operand if same else _operand(b, dtype)
    error = _BF16_ERROR if dtype == torch.bfloat16 else _FP32_ERROR
    limit = threshold - error * _longest(a) * (_longest(b) if not same else _longest(a))
    lefts, rights = [], []
    for start in range(0, len(a), _BLOCK_ROWS):
        rows = left_operand[start : start + _BLOCK_ROWS]
        for first in range(start if same else 0, len(b), _BLOCK_ROWS):
            left, right = _candidates(rows @ right_operand[first : first + _BLOCK_ROWS].T, limit)
            lefts.append(left + start)
            rights.append(right + first)
    left, right = np.concatenate(lefts), np.concatenate(rights)
    if same:
        upper = left < right
        left, right = left[upper], right[upper]
    similarity = pair_similarities(a[left], b[right])
    above = np.flatnonzero(similarity > np.float32(threshold))
    above = above[np.lexsort((right[above], left[above]))]
    return Pairs(left[above], right[above], similarity[above])


def _candidates(products: torch.Tensor, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the products above a limit; a row's maximum is taken first, for few rows have any."""
    rows = torch.nonzero(products.amax(dim=1) > limit)[:, 0]
    row, column = torch.nonzero(products[rows] > limit, as_tuple=True)
    return rows[row].cpu().numpy(), column.cpu().numpy()


def _operand(vectors: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(vectors)).to(_device()).to(dtype)


def _longest(vectors: np.ndarray) -> float:
    return float(np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float32).max()))


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@functools.cache
def _fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where a matrix product of it is clearly faster; the pairs are the same either way."""
    if device.type == "cuda":
        return torch.bfloat16
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        operand = torch.ones(512, 512, dtype=dtype)
        times = []
        for _ in range(4):
            start = time.perf_counter()
            operand @ operand
            times.append(time.perf_counter() - start)
        seconds[dtype] = min(times)
    return torch.bfloat16 if seconds[torch.bfloat16] < 0.7 * seconds[torch.float32] else torch.float32
