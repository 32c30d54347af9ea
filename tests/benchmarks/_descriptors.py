"""Vectors like those of a copy descriptor, with planted groups of copies: the data of the join's benchmark.

The background is a tree of topics on the sphere: a vector is the sum of a broad topic, a topic in it, a narrow one in
that and something of its own. Topics are of unequal size, and every part has a spectrum that falls by a power law. The
constants are fitted to the copy descriptor that ships, on 5,568 photographs:

| | photographs | as many vectors, dim 256 |
|---|---|---|
| similarity to the nearest neighbour, percentiles 5, 50, 95 | 0.25, 0.31, 0.46 | 0.25, 0.32, 0.49 |
| to the 10th and the 100th, median | 0.23, 0.15 | 0.22, 0.15 |
| of random pairs, standard deviation | 0.064 | 0.066 |
| participation ratio of the spectrum; axes with 90 % of the variance | 218; 206 | 207; 210 |
| intrinsic dimension by two nearest neighbours | 39 | 27 |

A fifth of the vectors are copies in groups of 2 to 17. A copy is as similar to its original as a uniform draw from the
threshold to 1 says, and what the edit puts in place of the rest is another vector of the background, as an overlay or a
collage would: so copies lean towards lists that their originals are not in, which is the hard case for any lists.
"""

import numpy as np

COPY_SHARE = 0.2
MEAN_COPIES = 3.0  # of an original that has any: a geometric number, cut at
MOST_COPIES = 16
_BRANCHES = (32, 32, 32)
_SHARES = (0.10, 0.14, 0.20)  # of the squared length, by level; the rest is the vector's own
_DECAY = 0.26  # the variance of the i-th axis falls as i^-0.26
_CHUNK_ROWS = 16384


class Background:
    """The law that background vectors are drawn from."""

    def __init__(self, dim: int, generator: np.random.Generator) -> None:
        self._generator = generator
        self._scale = (np.arange(1, dim + 1) ** (-_DECAY / 2)).astype(np.float32)
        self._levels = []
        num = 1
        for branches, share in zip(_BRANCHES, _SHARES, strict=True):
            num *= branches
            self._levels.append(self._own(num) * np.float32(share**0.5))
        weights = 1 / np.arange(1, num + 1)
        self._cumulative = np.cumsum(generator.permutation(weights**0.5))
        self._cumulative /= self._cumulative[-1]

    def draw(self, num: int) -> np.ndarray:
        """[num, d] float32 of unit length."""
        leaf = np.searchsorted(self._cumulative, self._generator.random(num))
        vectors = self._own(num) * np.float32((1 - sum(_SHARES)) ** 0.5)
        below = int(np.prod(_BRANCHES))
        for branches, centres in zip(_BRANCHES, self._levels, strict=True):
            below //= branches
            vectors += centres[leaf // below]
        return _unit(vectors)

    def _own(self, num: int) -> np.ndarray:
        return _unit(self._generator.standard_normal((num, len(self._scale)), np.float32) * self._scale)


def descriptors(num_vectors: int, dim: int, threshold: float, seed: int) -> np.ndarray:
    """[n, d] float16 of unit length: background and planted groups in random order."""
    generator = np.random.default_rng(seed)
    background = Background(dim, generator)
    place = generator.permutation(num_vectors)  # of the i-th vector: written there at once, so there is one copy of all
    num_copies = int(num_vectors * COPY_SHARE)
    num_originals = num_vectors - num_copies
    vectors = np.empty((num_vectors, dim), np.float16)
    for start in range(0, num_originals, _CHUNK_ROWS):
        rows = place[start : min(start + _CHUNK_ROWS, num_originals)]
        vectors[rows] = background.draw(len(rows))
    copies = np.minimum(generator.geometric(1 / MEAN_COPIES, num_copies), MOST_COPIES)
    sources = np.repeat(generator.permutation(num_originals)[:num_copies], copies)[:num_copies]
    for start in range(0, num_copies, _CHUNK_ROWS):
        source = vectors[place[sources[start : start + _CHUNK_ROWS]]].astype(np.float32)
        similarity = generator.uniform(threshold, 1, (len(source), 1)).astype(np.float32)
        other = background.draw(len(source))
        other = _unit(other - source * np.einsum("nd,nd->n", other, source)[:, None])
        rows = place[num_originals + start : num_originals + start + len(source)]
        vectors[rows] = similarity * source + np.sqrt(1 - similarity**2) * other
    return vectors


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.sqrt(np.einsum("nd,nd->n", vectors, vectors))[:, None]
