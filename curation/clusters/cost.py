"""What spherical k-means costs, before it is run: operations, bytes, core-hours and GPU-hours at any size.

``python -m curation.clusters.cost --num-vectors 744e6`` prints it. The counts are those of full rounds: what bounds
save from round to round (``curation.clusters.nearest``) depends on the data and is left out.
"""

import argparse

from conf import entry_point
from curation.clusters.start import SAMPLE_PER_CLUSTER
from curation.neighbours.cost import Cost, report

POINTS_PER_CLUSTER = 256  # that training takes, where there are as many
_BYTES = 2  # of a number of a stored vector
_SUM_BYTES = 8  # of a number of a sum
_CENTROID_BYTES = 4


def lloyd(num_vectors: float, dim: int, k: int, num_rounds: int, num_tasks: int) -> list[Cost]:
    """The steps of k-means in tasks: start, training, and the cluster of every vector.

    Args:
        num_vectors: of the pool.
        dim: of a vector.
        k: number of clusters.
        num_rounds: of Lloyd's iteration.
        num_tasks: that add up a round; each reads the centroids and sends the sums of all clusters.
    """
    points = min(num_vectors, float(POINTS_PER_CLUSTER * k))
    product, vector_bytes = 2.0 * dim * k, float(dim * _BYTES)
    begin = min(points, float(SAMPLE_PER_CLUSTER * k))
    exchanged = num_tasks * k * dim * (_SUM_BYTES + _CENTROID_BYTES)
    return [
        Cost("start", begin * product, begin * vector_bytes),
        Cost("training", num_rounds * points * product, num_rounds * (points * vector_bytes + exchanged)),
        Cost(
            "cluster of every vector",
            num_vectors * product,
            num_vectors * vector_bytes + num_tasks * k * dim * _CENTROID_BYTES,
        ),
    ]


def summary(num_vectors: float, dim: int, k: int, num_rounds: int, num_tasks: int) -> str:
    """The table of :func:`lloyd` under a line that says of what."""
    name = f"k-means of {num_vectors:.4g} x {dim}, k = {k}, {num_rounds} rounds in {num_tasks} tasks"
    return report(name, lloyd(num_vectors, dim, k, num_rounds, num_tasks))


def main() -> int:
    """Print the cost."""
    parser = argparse.ArgumentParser(
        prog="python -m curation.clusters.cost",
        description="Operations, bytes, core-hours and GPU-hours of spherical k-means.",
        epilog="example: python -m curation.clusters.cost --num-vectors 744e6 --dim 1280 --k 100000",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--num-vectors", type=float, default=744e6)
    parser.add_argument("--dim", type=int, default=1280)
    parser.add_argument("--k", type=int, default=100_000, help="clusters")
    parser.add_argument("--num-rounds", type=int, default=20, help="of Lloyd's iteration")
    parser.add_argument("--num-tasks", type=int, default=64, help="that a round is shared out to")
    options = parser.parse_args()
    if min(options.num_vectors, options.dim, options.k, options.num_rounds, options.num_tasks) < 1:
        raise ValueError("--num-vectors, --dim, --k, --num-rounds and --num-tasks: give 1 or more")
    print(summary(options.num_vectors, options.dim, options.k, options.num_rounds, options.num_tasks))
    return 0


if __name__ == "__main__":
    entry_point(main)
