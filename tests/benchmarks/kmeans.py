"""Spherical k-means: curation.clusters.kmeans beside faiss.Kmeans, on the same points for as many iterations.

The two differ in more than speed. Ours starts from k-means++ and gives the same bits for any batching and number of
threads; faiss starts from random points and promises neither. ``inertia_ratio`` tells what the start is worth.
"""

import faiss
import numpy as np

from conf import entry_point
from curation.clusters.kmeans import train
from tests.benchmarks import harness


def main() -> int:
    """Run the benchmark."""
    parser = harness.parser(
        "tests.benchmarks.kmeans",
        "Spherical k-means beside faiss.Kmeans.",
        "--num-points 5000 --k 64 --num-iterations 5",
    )
    parser.add_argument("--num-points", type=int, default=20_000, help="training points; faiss takes all of them too")
    parser.add_argument("--dimension", type=int, default=128, help="of a point")
    parser.add_argument("--k", type=int, default=256, help="centroids")
    parser.add_argument("--num-iterations", type=int, default=20, help="Lloyd rounds")
    parser.add_argument("--seed", type=int, default=0, help="of the points and of both starts")
    options = parser.parse_args()
    data = options.num_points, options.dimension, options.k, options.seed
    points = mixture(*data)
    timing = harness.measure(
        {
            "ours": lambda: train(points, options.k, options.num_iterations, options.seed),
            "faiss": lambda: faiss_train(points, options.k, options.num_iterations, options.seed),
        },
        options.rounds,
    )
    ours, peer = (inertia(points, timing.results[name]) for name in ("ours", "faiss"))
    keys = {
        "num_points": options.num_points,
        "dimension": options.dimension,
        "k": options.k,
        "num_iterations": options.num_iterations,
        **timing.speedups(),
        "inertia_ratio": ours / peer,
        "peak_rss_bytes": harness.peak_rss_bytes(_train_ours, options.num_iterations, *data),
        "peak_rss_bytes_faiss": harness.peak_rss_bytes(_train_faiss, options.num_iterations, *data),
    }
    harness.finish("kmeans", timing, keys)
    return 0


def mixture(num_points: int, dimension: int, k: int, seed: int) -> np.ndarray:
    """[num_points, dimension] float32 of unit length around twice as many directions as there are centroids."""
    if min(num_points, dimension, k) < 1:
        raise ValueError(f"--num-points {num_points} --dimension {dimension} --k {k}: give at least 1 of each")
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((2 * k, dimension), np.float32)
    points = directions[rng.integers(0, 2 * k, num_points)]
    points += rng.standard_normal(points.shape, np.float32)
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def faiss_train(points: np.ndarray, k: int, num_iterations: int, seed: int) -> np.ndarray:
    """[k, d] centroids of faiss; without its sampling of the points."""
    peer = faiss.Kmeans(
        points.shape[1],
        k,
        niter=num_iterations,
        spherical=True,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(points),
    )
    peer.train(points)
    return peer.centroids


def inertia(points: np.ndarray, centroids: np.ndarray) -> float:
    """Sum over the points of 1 - cosine to the nearest centroid."""
    return float(np.sum(1.0 - (points @ centroids.T).max(axis=1), dtype=np.float64))


def _train_ours(num_iterations: int, num_points: int, dimension: int, k: int, seed: int) -> None:
    train(mixture(num_points, dimension, k, seed), k, num_iterations, seed)


def _train_faiss(num_iterations: int, num_points: int, dimension: int, k: int, seed: int) -> None:
    faiss_train(mixture(num_points, dimension, k, seed), k, num_iterations, seed)


if __name__ == "__main__":
    entry_point(main)
