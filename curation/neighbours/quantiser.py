"""Lists that cut a set of vectors into parts which are searched alone (an inverted file's coarse quantiser)."""

import hashlib
import io
from dataclasses import dataclass
from functools import cached_property

import numpy as np

_NORM = 4000.0  # of codes; the sum of any products of two such vectors is below 2^24, so float32 holds it exactly
_LEVELS = 256.0  # the largest integer below which bfloat16 holds all of them
_CHUNK_ROWS = 4096


@dataclass(frozen=True)
class Quantiser:
    """Lists, each with a centroid on the sphere; a vector belongs to those with the largest inner product.

    Vectors and centroids are rounded to whole numbers so small that the products of a matrix product, and all sums
    of them, are whole numbers that float32 holds. Which lists a vector belongs to is therefore the same in any
    batch, on any number of threads and on any machine.

    Attributes:
        centroids: [num_lists, d] int16, all about equally long; codes as above.
    """

    centroids: np.ndarray

    @classmethod
    def train(cls, sample: np.ndarray, num_lists: int, seed: int, num_rounds: int = 4) -> "Quantiser":
        """Spherical k-means on a sample, from sample points drawn by a seed.

        Args:
            sample: [n, d] float16 or float32, at least ``num_lists`` rows.
            num_lists: number of lists.
            seed: of the drawn points.
            num_rounds: of Lloyd's iteration.

        Raises:
            ValueError: fewer rows than lists, or no list.
        """
        if not 1 <= num_lists <= max(len(sample), 1):
            raise ValueError(f"num_lists {num_lists}: give 1 to {len(sample)}, the number of vectors trained on")
        if num_lists == 1:
            return cls(np.zeros((1, sample.shape[1]), np.int16))
        codes = _codes(sample)
        drawn = np.sort(np.random.default_rng(seed).choice(len(sample), num_lists, replace=False))
        quantiser = cls(_normalised(codes[drawn].astype(np.int64)))
        for _ in range(num_rounds):
            nearest = quantiser._nearest_codes(codes, 1)[:, 0]
            sums = np.zeros((num_lists, sample.shape[1]), np.int64)
            np.add.at(sums, nearest, codes)
            empty = ~sums.any(axis=1)
            sums[empty] = codes[drawn[empty]]
            quantiser = cls(_normalised(sums))
        return quantiser

    @property
    def num_lists(self) -> int:
        """Number of lists."""
        return len(self.centroids)

    def nearest(self, vectors: np.ndarray, m: int = 1) -> np.ndarray:
        """The ``m`` nearest lists of every vector; of equally near ones those with the lower numbers.

        Args:
            vectors: [n, d] float16 or float32.
            m: number of lists a vector, at most ``num_lists``.

        Returns:
            [n, m] int32, ascending in each row.

        Raises:
            ValueError: more lists are asked for than there are.
        """
        if not 1 <= m <= self.num_lists:
            raise ValueError(f"{m} nearest lists asked for; give 1 to {self.num_lists}")
        if self.num_lists == 1:
            return np.zeros((len(vectors), 1), np.int32)
        return self._nearest_codes(_codes(vectors), m)

    def _nearest_codes(self, codes: np.ndarray, m: int) -> np.ndarray:
        result = np.empty((len(codes), m), np.int32)
        centroids = self.centroids.astype(np.float32)
        for start in range(0, len(codes), _CHUNK_ROWS):
            part = slice(start, start + _CHUNK_ROWS)
            products = codes[part].astype(np.float32) @ centroids.T
            ranked = np.argsort(-products, axis=1, kind="stable")[:, :m]
            result[part] = np.sort(ranked, axis=1)
        return result

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


def _codes(vectors: np.ndarray) -> np.ndarray:
    """[n, d] -> int16: every row by its own factor, so that it is as fine as the bounds allow; lists do not mind."""
    largest = np.abs(vectors).max(axis=1, keepdims=True).astype(np.float32)
    scale = np.float32(min(_LEVELS, _NORM / vectors.shape[1] ** 0.5)) / np.where(largest > 0, largest, np.float32(1))
    return np.rint(vectors * scale).astype(np.int16)


def _normalised(sums: np.ndarray) -> np.ndarray:
    """[k, d] int64 -> int16: equally long rows, as long as the bounds allow."""
    directions = sums / np.sqrt((sums * sums).sum(axis=1, keepdims=True))
    return np.rint(directions * min(_NORM, _LEVELS / np.abs(directions).max())).astype(np.int16)
