"""Lists that cut a set of vectors into parts which are searched alone (an inverted file's coarse quantiser)."""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from curation.neighbours.compiled import compiled
from curation.neighbours.compute import in_order, product_dtype
from curation.neighbours.finite import REMEDY

SAMPLE_PER_LIST = 64  # vectors that training needs; k-means gains little from more
NUM_ROUNDS = 8  # of Lloyd's iteration
_NORM = 4000.0  # of codes; the sum of any products of two such vectors is below 2^24, so float32 holds it exactly
_LEVELS = 256.0  # the largest number up to which bfloat16 holds all whole ones
_TINY = 2.0**-100  # vectors with no larger term count as zero, whose factor would overflow
_CHUNK_ROWS = 512
_BLOCK_LISTS = 64


@dataclass(frozen=True)
class Quantiser:
    """Lists, each with a centroid on the sphere; a vector belongs to those with the largest inner product.

    Vectors and centroids are rounded to whole numbers so small that the terms of an inner product, and all sums of
    them, are whole numbers that float32 holds; the result is rounded to bfloat16 once. Which lists a vector belongs to
    is therefore the same in any batch, on any number of threads, and in any precision that this machine is fast at.

    Attributes:
        centroids: [num_lists, d] int16, all about equally long; codes as above.
    """

    centroids: np.ndarray

    @classmethod
    def train(
        cls, sample: np.ndarray, num_lists: int, seed: int, num_rounds: int = NUM_ROUNDS, num_threads: int | None = None
    ) -> "Quantiser":
        """Spherical k-means on a sample, from sample points drawn by a seed.

        Sums are whole numbers too, so the same sample and seed give the same quantiser anywhere.

        Args:
            sample: [n, d] float16 or float32, ``SAMPLE_PER_LIST`` rows a list do well.
            num_lists: number of lists.
            seed: of the drawn points.
            num_rounds: of Lloyd's iteration.
            num_threads: None: as many as torch uses.

        Raises:
            ValueError: fewer rows than lists that are not zero, or no list; or a row is not finite.
        """
        if not 1 <= num_lists <= max(len(sample), 1):
            raise ValueError(f"num_lists {num_lists}: give 1 to {len(sample)}, the number of vectors trained on")
        if num_lists == 1:
            return cls(np.zeros((1, sample.shape[1]), np.int16))
        codes = np.concatenate([codes_of(*item).to(torch.int16).numpy() for item in enumerate(_chunks(sample))])
        points = np.flatnonzero(codes.any(axis=1))  # zeros have no direction
        if len(points) < num_lists:
            raise ValueError(
                f"num_lists {num_lists}: of {len(sample)} vectors trained on {len(points)} are not zero; "
                "give no more lists than that"
            )
        drawn = np.sort(np.random.default_rng(seed).choice(points, num_lists, replace=False))
        quantiser = cls(_equally_long(codes[drawn].astype(np.int64)))
        for _ in range(num_rounds):
            sums = np.zeros((num_lists, sample.shape[1]), np.int64)
            start = 0
            for nearest in quantiser._ranked(_chunks(codes), 1, num_threads):
                _add(codes[start : start + len(nearest)], nearest[:, 0], sums)
                start += len(nearest)
            empty = ~sums.any(axis=1)
            sums[empty] = codes[drawn[empty]]
            quantiser = cls(_equally_long(sums))
        return quantiser

    @property
    def num_lists(self) -> int:
        """Number of lists."""
        return len(self.centroids)

    def nearest(self, vectors: np.ndarray, m: int, num_threads: int | None = None) -> np.ndarray:
        """The ``m`` nearest lists of every vector, in the order of their numbers; see :meth:`ranked`.

        Returns:
            [n, m] int32, ascending in each row.
        """
        return np.sort(self.ranked(vectors, m, num_threads), axis=1)

    def ranked(self, vectors: np.ndarray, m: int, num_threads: int | None = None) -> np.ndarray:
        """The ``m`` nearest lists of every vector, the nearest first; of equally near ones the lower number.

        Args:
            vectors: [n, d] float16 or float32; their lengths do not matter.
            m: number of lists a vector, at most ``num_lists``.
            num_threads: None: as many as torch uses.

        Returns:
            [n, m] int32.

        Raises:
            ValueError: more lists are asked for than there are, or the vectors have another dimension or one is not
                finite.
        """
        if not 1 <= m <= self.num_lists:
            raise ValueError(f"{m} nearest lists asked for; give 1 to {self.num_lists}")
        if vectors.shape[1:] != self.centroids.shape[1:]:
            raise ValueError(
                f"vectors are {list(vectors.shape)}; the quantiser has {self.centroids.shape[1]} dimensions"
            )
        result = np.zeros((len(vectors), m), np.int32)
        if self.num_lists > 1:
            start = 0
            for lists in self._ranked(_chunks(vectors), m, num_threads):
                result[start : start + len(lists)] = lists
                start += len(lists)
        return result

    def _ranked(self, chunks: Iterator[np.ndarray], m: int, num_threads: int | None) -> Iterator[np.ndarray]:
        dtype = product_dtype("cpu")  # both hold the whole numbers exactly
        num_blocks = -(-self.num_lists // _BLOCK_LISTS)
        centroids = torch.zeros(num_blocks * _BLOCK_LISTS, self.centroids.shape[1], dtype=dtype)
        centroids[: self.num_lists] = torch.from_numpy(self.centroids)

        def lists_of(item: tuple[int, np.ndarray]) -> np.ndarray:
            number, chunk = item
            codes = torch.from_numpy(chunk) if chunk.dtype == np.int16 else codes_of(number, chunk)
            products = (codes.to(dtype) @ centroids.T).bfloat16()
            products[:, self.num_lists :] = -1  # what fills up the last block is the last to be taken
            lists = np.empty((len(chunk), m), np.int32)
            _best(products.view(torch.int16).numpy().reshape(len(chunk), num_blocks, _BLOCK_LISTS), lists)
            return lists

        return in_order(lists_of, enumerate(chunks), num_threads)

    def to_bytes(self) -> bytes:
        """The quantiser as one file; equal quantisers give equal bytes."""
        file = io.BytesIO()
        np.save(file, self.centroids, allow_pickle=False)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Quantiser":
        """Read what :meth:`to_bytes` wrote.

        Raises:
            ValueError: the bytes are no quantiser.
        """
        try:
            centroids = np.load(io.BytesIO(data), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"not a quantiser: {len(data)} bytes that numpy does not read") from error
        if centroids.ndim != 2 or centroids.dtype != np.int16:
            raise ValueError(f"not a quantiser: an array {centroids.shape} of {centroids.dtype}")
        return cls(centroids)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the bytes, hex."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


def _chunks(vectors: np.ndarray) -> Iterator[np.ndarray]:
    return (vectors[start : start + _CHUNK_ROWS] for start in range(0, len(vectors), _CHUNK_ROWS))


def codes_of(number: int, vectors: np.ndarray) -> Tensor:
    """[n, d] -> float32 whole numbers: every row by its own factor, as fine as the bounds allow; lists do not mind.

    Args:
        number: of the chunk, for the message.
        vectors: at most ``_CHUNK_ROWS`` float16 or float32 rows.

    Raises:
        ValueError: a row is not finite.
    """
    codes = torch.from_numpy(np.require(vectors, requirements=["C", "W"])).float()  # torch wants to be able to write
    largest = codes.abs().amax(dim=1, keepdim=True)
    if not torch.isfinite(largest).all():
        row = number * _CHUNK_ROWS + int((~torch.isfinite(largest)).nonzero()[0, 0])
        raise ValueError(f"row {row} of the vectors is not finite; {REMEDY}")
    largest[largest < _TINY] = torch.inf
    return codes.mul(min(_LEVELS, _NORM / vectors.shape[1] ** 0.5) / largest).round_()


def _equally_long(sums: np.ndarray) -> np.ndarray:
    """[k, d] int64 -> int16: the same directions, all of one length, the largest that the bounds allow; zeros stay."""
    largest = np.maximum(np.abs(sums).max(axis=1, keepdims=True), 1)
    shares = np.rint(sums * (2.0**20 / largest)).astype(np.int64)  # so small that the squares add up exactly
    directions = shares / np.sqrt(np.maximum((shares * shares).sum(axis=1, keepdims=True), 1))
    highest = max(np.abs(directions).max(), 2.0**-20)  # any row but zeros has more
    return np.rint(directions * min(_NORM, _LEVELS / highest)).astype(np.int16)


@compiled
def _add(codes: np.ndarray, lists: np.ndarray, sums: np.ndarray) -> None:
    for row in range(len(codes)):
        code, total = codes[row], sums[lists[row]]
        for i in range(len(code)):  # vectorised
            total[i] += code[i]


@compiled
def _best(products: np.ndarray, lists: np.ndarray) -> None:
    """The lists with the largest products of every row, the largest first, of equal ones the lower number.

    The products are the bits of bfloat16, as [rows, blocks, lists of a block]. Those of positive sign are in the order
    of their bits. Negative ones count as equal and less: a list with a negative one is far from the nearest, save where
    there are next to no lists.
    """
    num_rows, num_blocks, width = products.shape
    m = lists.shape[1]
    maxima = np.empty(num_blocks, np.int16)
    best = np.empty(m, np.int16)
    for row in range(num_rows):
        best[:] = -1
        for block in range(num_blocks):
            most = np.int16(-1)
            for i in range(width):  # vectorised
                value = products[row, block, i]
                most = value if value > most else most
            maxima[block] = most
            if most > best[m - 1]:
                place = m - 1
                while place > 0 and best[place - 1] < most:
                    best[place] = best[place - 1]
                    place -= 1
                best[place] = most
        least = best[m - 1]  # m blocks have a product of this or more, so nothing less is among the best m
        found = 0
        for block in range(num_blocks):
            if maxima[block] < least or (found == m and maxima[block] <= best[m - 1]):
                continue
            for i in range(width):
                value = max(products[row, block, i], np.int16(-1))
                if value >= least and (found < m or value > best[m - 1]):
                    place = min(found, m - 1)
                    while place > 0 and best[place - 1] < value:
                        best[place] = best[place - 1]
                        lists[row, place] = lists[row, place - 1]
                        place -= 1
                    best[place] = value
                    lists[row, place] = block * width + i
                    found = min(found + 1, m)
