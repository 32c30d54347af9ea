"""Where k-means starts: rows drawn by their distance to those drawn before (k-means++, Arthur and Vassilvitskii 2007).

Rows are drawn in batches from the distances as they are at the start of a batch, and a row stays with the probability
that its distance has kept meanwhile, which gives the same law. So distances come from matrix products.
"""

from collections.abc import Iterator

import numpy as np
import torch

from curation.neighbours.compiled import compiled
from curation.neighbours.compute import in_order
from curation.neighbours.quantiser import codes_of

SAMPLE_PER_CLUSTER = 8  # rows that the start is drawn from
_BATCH = 256
_CHUNK_ROWS = 512
_CLONES = 1e-6  # below the distance of vectors that differ once rounded, above that of a row to itself
_UNITS = 2.0**24  # of a distance of 1; sums of whole numbers have no order


def start(sample: np.ndarray, k: int, seed: int, num_threads: int | None = None) -> np.ndarray:
    """Draw rows, the first at random and each further one by its distance to the nearest before it.

    Distance is 1 - cosine, half the squared distance of unit vectors, of vectors rounded to whole numbers.

    Args:
        sample: [n, d] float16 or float32, at least k rows.
        k: number of rows drawn.
        seed: of the draws.
        num_threads: None: as many as torch uses.

    Returns:
        [k] int64 rows, each once.
    """
    rng = np.random.default_rng(seed)
    codes = np.concatenate([codes_of(*item).to(torch.int16).numpy() for item in enumerate(_chunks(sample))])
    lengths = np.sqrt((codes.astype(np.int64) ** 2).sum(axis=1).clip(1))
    distance = np.full(len(sample), 2 * int(_UNITS))
    chosen = np.array([rng.integers(len(sample))])
    _approach(codes, lengths, chosen, distance, num_threads)
    while len(chosen) < k:
        total = np.cumsum(distance)
        if not total[-1]:  # fewer distinct vectors than are asked for
            others = np.setdiff1d(np.arange(len(sample)), chosen)
            return np.append(chosen, others[: k - len(chosen)])
        draws = rng.integers(total[-1], size=min(_BATCH, len(chosen), 2 * (k - len(chosen))))
        drawn = np.searchsorted(total, draws, side="right")
        stays = rng.random(len(drawn)) * distance[drawn]
        kept = drawn[_still_far(_distances(codes, lengths, drawn, drawn), stays)][: k - len(chosen)]
        _approach(codes, lengths, kept, distance, num_threads)
        chosen = np.append(chosen, kept)
    return chosen


def _approach(
    codes: np.ndarray, lengths: np.ndarray, to: np.ndarray, distance: np.ndarray, num_threads: int | None
) -> None:
    """Lower every row's distance to that of the nearest of some rows."""
    others = torch.from_numpy(codes[to]).float()

    def lower(first: int) -> None:
        rows = slice(first, first + _CHUNK_ROWS)
        products = torch.from_numpy(codes[rows]).float() @ others.T
        _lower(products.numpy(), lengths[rows], lengths[to], distance[rows])

    for _ in in_order(lower, range(0, len(codes), _CHUNK_ROWS), num_threads):
        pass


def _distances(codes: np.ndarray, lengths: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[a, b] int64 distances of rows in units."""
    products = (torch.from_numpy(codes[a]).float() @ torch.from_numpy(codes[b]).float().T).numpy()
    cosines = products / lengths[a][:, None] / lengths[b]
    return np.where(cosines < 1 - _CLONES, (_UNITS * (1 - cosines)).astype(np.int64), 0)


def _chunks(sample: np.ndarray) -> Iterator[np.ndarray]:
    return (sample[first : first + _CHUNK_ROWS] for first in range(0, len(sample), _CHUNK_ROWS))


def _still_far(between: np.ndarray, stays: np.ndarray) -> np.ndarray:
    """Which of a batch stay: those whose distance to all that stayed before them is above a number of their own."""
    kept: list[int] = []
    for i, least in enumerate(stays):
        if not kept or between[i, kept].min() > least:
            kept.append(i)
    return np.array(kept)


@compiled
def _lower(products: np.ndarray, lengths: np.ndarray, other_lengths: np.ndarray, distance: np.ndarray) -> None:
    """Lower distances to the least of some products, which are whole numbers and so exact in float32."""
    for row in range(len(products)):
        closest = -1.0
        for i in range(len(other_lengths)):
            closest = max(closest, np.float64(products[row, i]) / other_lengths[i])
        cosine = closest / lengths[row]
        distance[row] = min(distance[row], np.int64(2.0**24 * (1 - cosine)) if cosine < 1 - 1e-6 else 0)
