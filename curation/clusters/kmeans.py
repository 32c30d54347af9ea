"""Spherical k-means (paper, appendix A: clusters for retrieval), equal for any batching, threads or partitions.

Two things make it so. A matrix product only proposes the nearest centroids; near-ties are settled by
``pair_similarities``. And members are summed as fixed-point integers, whose sum has no order.
"""

import numpy as np

from curation.neighbours.similarity import pair_similarities

_ROUNDING = 1e-4  # above any difference between a float32 product of unit vectors and the exact one
_FIXED_POINT = 2.0**30  # units of a component: leaves room for 2**33 members in 64 bits
_TILE = 2**23  # scores held at once


def train(vectors: np.ndarray, k: int, num_iterations: int, seed: int) -> np.ndarray:
    """Centroids by Lloyd's rounds from a k-means++ start.

    Every round normalises the mean of each cell; an empty cell restarts at the worst-placed member of the
    largest. Stops early when no assignment changes.

    Args:
        vectors: [n, d] float16 or float32 of unit length.
        k: number of centroids, at most n.
        num_iterations: rounds at most.
        seed: of the start.

    Returns:
        [k, d] float32 of unit length.

    Raises:
        ValueError: k is below 1 or above n.
    """
    if not 1 <= k <= len(vectors):
        raise ValueError(f"k = {k} clusters from {len(vectors)} vectors: k must lie between 1 and their number")
    centroids = _start(vectors, k, np.random.default_rng(seed))
    previous = None
    for _ in range(num_iterations):
        clusters, similarities = assign(vectors, centroids)
        if previous is not None and np.array_equal(clusters, previous):
            break
        previous = clusters
        sums, counts = partial_sums(vectors, clusters, k)
        centroids = _normalised(sums, centroids)
        _refill(centroids, counts, vectors, clusters, similarities)
    return centroids


def assign(vectors: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest centroid of every vector, ties by the lowest cluster.

    Args:
        vectors: [n, d] float16 or float32 of unit length.
        centroids: [k, d] float32 of unit length.

    Returns:
        clusters [n] int32 and cosine to the centroid [n] float32; no bit depends on which rows come together.
    """
    clusters = np.empty(len(vectors), np.int32)
    similarities = np.empty(len(vectors), np.float32)
    step = max(1, _TILE // len(centroids))
    for start in range(0, len(vectors), step):
        part = vectors[start : start + step].astype(np.float32)
        scores = part @ centroids.T
        row, cluster = np.nonzero(scores >= scores.max(axis=1, keepdims=True) - _ROUNDING)
        exact = pair_similarities(part[row], centroids[cluster])
        order = np.lexsort((cluster, -exact, row))
        first = order[np.unique(row[order], return_index=True)[1]]
        clusters[start : start + step] = cluster[first]
        similarities[start : start + step] = exact[first]
    return clusters, similarities


def partial_sums(vectors: np.ndarray, clusters: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the members of every cluster; the sums of parts add up to exactly the sums of the whole.

    Returns:
        sums [k, d] int64 in units of 2**-30, and counts [k] int64.
    """
    sums = np.zeros((k, vectors.shape[1]), np.int64)
    step = max(1, _TILE // max(1, vectors.shape[1]))
    for start in range(0, len(vectors), step):
        order = np.argsort(clusters[start : start + step], kind="stable")
        present, first = np.unique(clusters[start : start + step][order], return_index=True)
        fixed = np.rint(vectors[start : start + step][order].astype(np.float64) * _FIXED_POINT).astype(np.int64)
        sums[present] += np.add.reduceat(fixed, first, axis=0)
    return sums, np.bincount(clusters, minlength=k)


def _start(vectors: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Greedy k-means++ on a sample: of a few rows drawn by their distance, take the one that covers most.

    Distance is 1 - cosine, half the squared distance of unit vectors.
    """
    num_sampled = min(len(vectors), max(16 * k, 4096))
    sample = vectors[np.sort(rng.choice(len(vectors), num_sampled, replace=False))].astype(np.float32)
    chosen = [int(rng.integers(num_sampled))]
    distance = _distance(sample, chosen[0])
    for _ in range(k - 1):
        cumulative = np.cumsum(distance)
        if cumulative[-1] > 0:
            draws = rng.random(2 + int(np.log(k))) * cumulative[-1]
            drawn = np.unique(np.minimum(np.searchsorted(cumulative, draws, side="right"), num_sampled - 1))
        else:  # fewer distinct vectors than centroids
            drawn = np.setdiff1d(np.arange(num_sampled), chosen)[:1]
        trials = [np.minimum(distance, _distance(sample, row)) for row in drawn]
        best = int(np.argmin([trial.sum() for trial in trials]))
        distance = trials[best]
        chosen.append(int(drawn[best]))
    return sample[chosen]


def _distance(sample: np.ndarray, row: int) -> np.ndarray:
    distance = 1.0 - pair_similarities(sample, np.broadcast_to(sample[row], sample.shape)).astype(np.float64)
    distance[distance < 1e-6] = 0.0  # the row itself and its clones, but for rounding
    return distance


def _normalised(sums: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Unit vectors along the sums; the old centroid where a sum is zero."""
    directions = sums / _FIXED_POINT
    norms = np.linalg.norm(directions, axis=1, keepdims=True)
    return np.where(norms > 0, directions / np.where(norms > 0, norms, 1), centroids).astype(np.float32)


def _refill(
    centroids: np.ndarray, counts: np.ndarray, vectors: np.ndarray, clusters: np.ndarray, similarities: np.ndarray
) -> None:
    """Move every empty centroid onto the worst-placed member of the largest cell that has not given one yet."""
    empty = np.flatnonzero(counts == 0)
    size = counts.copy()
    given = np.zeros(len(vectors), bool)
    for cluster in empty:
        largest = int(np.argmax(size))
        members = np.flatnonzero((clusters == largest) & ~given)
        if not len(members):
            return
        worst = members[np.argmin(similarities[members])]
        centroids[cluster] = vectors[worst]
        given[worst] = True
        size[largest] //= 2  # as if the cell had been split
