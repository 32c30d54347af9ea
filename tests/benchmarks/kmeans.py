"""Spherical k-means: curation.clusters.kmeans beside faiss.Kmeans, on the same points for as many iterations.

The points are the background of ``tests.benchmarks._descriptors``: topics within topics, 32,768 of them in all, whose
sizes fall as the root of their rank and whose share of a vector's squared length is 0.44; the rest is noise with a
spectrum that falls by a power law. It is fitted to real photographs, and hard to cluster: no group stands alone.

Ours reads the points as float16 from a file, chunk by chunk, within ``--memory-bytes``; faiss gets all of them as
float32 in memory, at once and without its own sampling. What is timed is everything from there to the centroids. The
two differ in more than speed: ours starts from k-means++ and gives the same bits for any batching and number of
threads; faiss starts from random points and promises neither. ``inertia_ratio`` tells what the start is worth.
"""

import tempfile
from pathlib import Path

import faiss
import numpy as np
import torch

from conf import entry_point
from curation.clusters import cost
from curation.clusters.kmeans import assign, train
from curation.clusters.points import StoredPoints
from tests.benchmarks import harness
from tests.benchmarks._descriptors import Background

_CHUNK_ROWS = 16384


def main() -> int:
    """Run the benchmark."""
    parser = harness.parser(
        "tests.benchmarks.kmeans",
        "Spherical k-means beside faiss.Kmeans.",
        "--num-vectors 500000 --dim 256 --k 4096",
        rounds=3,
    )
    parser.add_argument("--num-vectors", type=int, default=50_000, help="training points; faiss takes all of them too")
    parser.add_argument("--dim", type=int, default=256, help="of a point")
    parser.add_argument("--k", type=int, default=512, help="centroids")
    parser.add_argument("--iterations", type=int, default=20, help="Lloyd rounds")
    parser.add_argument("--threads", type=int, default=2, help="of ours and of faiss")
    parser.add_argument("--memory-bytes", type=int, default=2**29, help="that ours may take")
    parser.add_argument("--seed", type=int, default=0, help="of the points and of both starts")
    options = parser.parse_args()
    num, dim, k = options.num_vectors, options.dim, options.k
    if min(num, dim, k, options.threads) < 1:
        raise ValueError(f"--num-vectors {num} --dim {dim} --k {k} --threads {options.threads}: give 1 or more of each")
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    ours = k, options.iterations, options.seed, options.memory_bytes, options.threads
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "points.npy")
        write_points(path, num, dim, options.seed)
        points = np.load(path).astype(np.float32)
        timing = harness.measure(
            {
                "ours": lambda: train(StoredPoints(path), *ours),
                "faiss": lambda: faiss_train(points, k, options.iterations, options.seed),
            },
            options.rounds,
        )
        inertias = {name: inertia(points, centroids) for name, centroids in timing.results.items()}
        libraries = harness.peak_rss_bytes(_warm_up, str(path))
        peak = harness.peak_rss_bytes(_train_ours, str(path), *ours)
        keys = {
            "num_vectors": num,
            "dim": dim,
            "k": k,
            "iterations": options.iterations,
            "seconds": {name: timing.median_s(name) for name in timing.seconds},
            **timing.speedups(),
            "inertia_ratio": inertias["ours"] / inertias["faiss"],
            "peak_rss_bytes": peak,
            "peak_rss_bytes_libraries": libraries,
            "peak_rss_bytes_faiss": harness.peak_rss_bytes(_train_faiss, str(path), *ours),
            "memory_bytes": options.memory_bytes,
        }
    print(f"inertia a point: ours {inertias['ours'] / num:.5f}, faiss {inertias['faiss'] / num:.5f}")
    print(
        f"memory beyond the libraries': {(peak - libraries) / 1e6:.0f} of {options.memory_bytes / 1e6:.0f} MB allowed"
    )
    print("\n" + cost.summary(744e6, 1280, 100_000, 20, 64))
    harness.finish("kmeans", timing, keys)
    return 0


def write_points(path: Path, num_points: int, dim: int, seed: int) -> None:
    """Write [num_points, dim] float16 of unit length in random order, chunk by chunk."""
    background = Background(dim, np.random.default_rng(seed))
    points = np.lib.format.open_memmap(path, "w+", np.float16, (num_points, dim))
    for start in range(0, num_points, _CHUNK_ROWS):
        stop = min(start + _CHUNK_ROWS, num_points)
        points[start:stop] = background.draw(stop - start)


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
    return float(np.sum(1.0 - assign(points, centroids)[1], dtype=np.float64))


def _warm_up(path: str) -> None:
    """What ours takes for its libraries and compiled code: that of a few points."""
    train(StoredPoints(Path(path))[:4096], 2, 2, 0)


def _train_ours(path: str, k: int, num_iterations: int, seed: int, memory_bytes: int, num_threads: int) -> None:
    torch.set_num_threads(num_threads)
    train(StoredPoints(Path(path)), k, num_iterations, seed, memory_bytes, num_threads)


def _train_faiss(path: str, k: int, num_iterations: int, seed: int, _memory_bytes: int, num_threads: int) -> None:
    faiss.omp_set_num_threads(num_threads)
    faiss_train(np.load(path).astype(np.float32), k, num_iterations, seed)


if __name__ == "__main__":
    entry_point(main)
