"""All pairs above a threshold of one or two tiles of vectors: a matrix product finds them, exact arithmetic decides."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from curation.neighbours.compiled import compiled
from curation.neighbours.compute import device, product_dtype
from curation.neighbours.finite import REMEDY
from curation.neighbours.rounding import round_rows
from curation.neighbours.similarity import similarities_of_rows

BLOCK_ROWS = (
    1024  # of a block of products, and its columns: a block of products and its two operands stay in a core's cache
)
_STEP_ROWS = 64
_UNDERFLOW = 2.0**-63  # the square of a smaller number may count as zero
_LONGEST = 2.0**60  # length up to which no product and no sum overflows


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


def within(vectors: np.ndarray, threshold: float, *, num_hosts: int | None = None) -> Pairs:
    """All pairs of rows of one tile that are more similar than a threshold.

    Args:
        vectors: [n, d] float16 or float32; the similarity is the cosine where rows have unit length.
        threshold: pairs with a similarity above it are returned.
        num_hosts: where given, the rows from here on are guests, which are not compared with each other.

    Returns:
        Pairs with left < right, by left, then right.

    Raises:
        ValueError: the vectors are of another shape or dtype, or one of them or the threshold is not finite.
    """
    strips = Strips(vectors, threshold)
    num_hosts = len(vectors) if num_hosts is None else num_hosts
    return Pairs.concatenate([strips.pairs(start, num_hosts) for start in range(0, num_hosts, BLOCK_ROWS)])


def between(a: np.ndarray, b: np.ndarray, threshold: float) -> Pairs:
    """All pairs of a row of one tile and a row of another that are more similar than a threshold.

    Args:
        a: [n, d] float16 or float32.
        b: [m, d] of the same dtype.
        threshold: pairs with a similarity above it are returned.

    Returns:
        Pairs whose left is a row of ``a`` and right a row of ``b``, by left, then right.

    Raises:
        ValueError: the vectors are of another shape or dtype, or differ in either; or one of them or the threshold is
            not finite.
    """
    if a.shape[1:] != b.shape[1:] or a.dtype != b.dtype:
        raise ValueError(f"two tiles must have one width and dtype, not {a.shape} {a.dtype} and {b.shape} {b.dtype}")
    rows, columns = Operand.of(a), Operand.of(b)
    limit = _limit(rows, columns, threshold)
    strips = []
    for start in range(0, len(a), BLOCK_ROWS):
        block = _block(rows.values, start, len(a))
        left, right = _candidates(block, columns.values, len(a) - start, len(b), limit)
        strips.append(_verified(a, b, left + start, right, threshold))
    return Pairs.concatenate(strips)


class Strips:
    """One tile whose strips of rows are compared one by one, as :func:`within` does; strips may run side by side."""

    def __init__(self, vectors: np.ndarray, threshold: float) -> None:
        """See :func:`within`."""
        self._vectors = vectors
        self._threshold = threshold
        operand = Operand.of(vectors)
        self._values = operand.values
        self._limit = _limit(operand, operand, threshold)

    def pairs(self, start: int, num_hosts: int) -> Pairs:
        """The pairs whose left row is one of the :data:`BLOCK_ROWS` hosts from ``start`` on."""
        num_rows = min(BLOCK_ROWS, num_hosts - start)
        block, rest = _block(self._values, start, num_hosts), self._values[start:]
        left, right = _candidates(block, rest, num_rows, len(self._vectors) - start, self._limit)
        upper = left < right
        return _verified(self._vectors, self._vectors, left[upper] + start, right[upper] + start, self._threshold)


@dataclass(frozen=True)
class Operand:
    """A tile as this machine multiplies it, and what bounds the error of its products.

    Attributes:
        values: [n and what fills up the last step, d] on the GPU where there is one, bfloat16 where that is fast.
        longest: length of the longest vector at most.
        rounding: length of the largest difference of a vector and its row of ``values`` at most.
    """

    values: Tensor
    longest: float
    rounding: float

    @classmethod
    def of(cls, vectors: np.ndarray) -> "Operand":
        """Round vectors [n, d] of float16 or float32, and measure by how much they move.

        Rows of zeros fill up the last step, since oneDNN makes a kernel for every new shape, which takes longer than
        the product of a small tile: 5.6 ms beside 0.6 ms for blocks of 300 to 1,000 rows.

        Raises:
            ValueError: the vectors are of another shape or dtype, or one is not finite.
        """
        if vectors.ndim != 2 or vectors.dtype not in (np.float16, np.float32):
            raise ValueError(f"a tile is [n, d] of float16 or float32, not {list(vectors.shape)} of {vectors.dtype}")
        where = device()
        if where.type == "cuda":  # else cuBLAS may add parts of a sum in bfloat16; left so, as tiles share threads
            torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        values = torch.zeros(filled(len(vectors)), vectors.shape[1], dtype=product_dtype(where.type), device=where)
        longest = rounding = 0.0
        for start in range(0, len(vectors), BLOCK_ROWS):
            rows = np.require(vectors[start : start + BLOCK_ROWS], requirements=["C", "W"])  # torch wants to write
            length, moved, bad = _rounded_into(values[start : start + len(rows)], rows)
            if bad >= 0:
                raise ValueError(
                    f"row {start + bad} of the tile is not finite, or longer than {_LONGEST:.0e}; {REMEDY}"
                )
            longest, rounding = max(longest, length), max(rounding, moved)
        lost = math.sqrt(vectors.shape[1]) * _UNDERFLOW
        return cls(values, (longest + lost) * (1 + 2.0**-10), (rounding + lost) * (1 + 2.0**-10))


def _rounded_into(values: Tensor, rows: np.ndarray) -> tuple[float, float, int]:
    """Copy rows; the longest's length, that of the largest difference, and the first row out of bounds or -1."""
    if values.device.type == "cpu" and values.dtype == torch.bfloat16:
        longest, moved = round_rows(rows, values.view(torch.int16).numpy())
        if longest < _LONGEST:
            return longest, moved, -1
    exact = torch.from_numpy(rows).to(values.device).float()
    values.copy_(exact)
    lengths = torch.linalg.vector_norm(exact, dim=1)
    outside = (~(lengths < _LONGEST)).nonzero()
    bad = int(outside[0]) if len(outside) else -1
    # of one dtype: torch takes ten times as long for a difference of two
    return float(lengths.max()), float(torch.linalg.vector_norm(exact - values.float(), dim=1).max()), bad


def margin(a: Operand, b: Operand) -> float:
    """By how much the sum of products of two rounded vectors may be below that of the vectors themselves at most.

    With a = x + r and b = y + s, x and y rounded, a b - x y = a s + r b - r s, whose terms Cauchy and Schwarz bound by
    the lengths; and sums are added in float32.
    """
    rounding = a.longest * b.rounding + a.rounding * b.longest + a.rounding * b.rounding
    sums = (a.values.shape[1] + 4) * 2.0**-23 * (a.longest + a.rounding) * (b.longest + b.rounding)
    return rounding + sums


def _limit(a: Operand, b: Operand, threshold: float) -> float:
    """What the product of a pair above the threshold reaches at least, in the dtype of the products.

    Rounding keeps the order: a sum of at least some number is rounded to no less than that number rounded down.
    """
    if not math.isfinite(threshold):
        raise ValueError(f"threshold {threshold}: give a number")
    most = float(np.finfo(np.float32).max)
    lowest = min(max(float(np.float32(threshold)) - margin(a, b), -most), most)
    return rounded_down(lowest, a.values.dtype)


def rounded_down(value: float, dtype: torch.dtype) -> float:
    """The largest number of float32 or bfloat16 that is not above a value."""
    number = torch.tensor(value, dtype=torch.float64)
    rounded = number.to(dtype)
    if rounded.double() > number:
        rounded = torch.nextafter(rounded, torch.tensor(-torch.inf, dtype=dtype))
    return float(rounded)


def filled(num_rows: int) -> int:
    """The number of rows of an operand with this many, as :meth:`Operand.of` fills it up."""
    return -(-num_rows // _STEP_ROWS) * _STEP_ROWS


def _block(operand: Tensor, start: int, num_rows: int) -> Tensor:
    return operand[start : start + min(BLOCK_ROWS, filled(num_rows - start))]


def _candidates(
    rows: Tensor, columns: Tensor, num_rows: int, num_columns: int, limit: float
) -> tuple[np.ndarray, np.ndarray]:
    """Row [c] int64 and column [c] int64 of all products that reach a limit, but for what fills up the operands."""
    found = [(np.empty(0, np.int64), np.empty(0, np.int64))]
    for start in range(0, num_columns, BLOCK_ROWS):
        products = rows @ _block(columns, start, num_columns).T
        row, column = _reaching(products, num_rows, num_columns - start, limit)
        found.append((row, column + start))
    row, column = (np.concatenate(side) for side in zip(*found, strict=True))
    return row, column


def _verified(a: np.ndarray, b: np.ndarray, left: np.ndarray, right: np.ndarray, threshold: float) -> Pairs:
    """The candidates that are similar indeed, with their similarity, by left, then right."""
    similarity = similarities_of_rows(a, b, left, right)
    above = np.flatnonzero(similarity > np.float32(threshold))
    above = above[np.lexsort((right[above], left[above]))]
    return Pairs(left[above], right[above], similarity[above])


def _reaching(products: Tensor, num_rows: int, num_columns: int, limit: float) -> tuple[np.ndarray, np.ndarray]:
    if products.device.type == "cpu" and limit > 0:
        return _places(products, min(num_rows, len(products)), min(num_columns, products.shape[1]), limit)
    products = products[:num_rows, :num_columns]
    rows = torch.nonzero(products.amax(dim=1) >= limit)[:, 0]  # few rows have any, and most products are looked at once
    row, column = torch.nonzero(products[rows] >= limit, as_tuple=True)
    return rows[row].cpu().numpy(), column.cpu().numpy()


def _places(products: Tensor, num_rows: int, num_columns: int, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Positive floats are in the order of their bits, and negative ones lie below: so whole numbers are compared."""
    integer = torch.int16 if products.dtype == torch.bfloat16 else torch.int32
    bits = int(torch.tensor(limit, dtype=products.dtype).view(integer))
    whole = products.view(integer).numpy()
    bound = whole.dtype.type(bits - 1)
    size = 4 * BLOCK_ROWS
    while True:
        places = np.empty((2, size), np.int64)
        count = _scan(whole, num_rows, num_columns, bound, places)
        if count <= size:
            return places[0, :count], places[1, :count]
        size = count


@compiled
def _scan(products: np.ndarray, num_rows: int, num_columns: int, bound: np.integer, places: np.ndarray) -> int:
    """Write row and column of all products above the bound while there is room; return how many there are."""
    count = 0
    for row in range(num_rows):
        most = bound
        for column in range(num_columns):  # the maximum of a row first: this loop is vectorised
            value = products[row, column]
            most = value if value > most else most
        if most > bound:
            for column in range(num_columns):
                if products[row, column] > bound:
                    if count < places.shape[1]:
                        places[0, count] = row
                        places[1, count] = column
                    count += 1
    return count
