"""Connected components of a random graph: curation.neighbours.components beside scipy.sparse.csgraph.

Both start from the list of edges, which is what a join of similar pairs gives; so ``scipy`` includes making its sparse
matrix. ``scipy_matrix`` starts from the finished matrix.
"""

import numpy as np
from scipy.sparse import csgraph, csr_array

from conf import entry_point
from curation.neighbours.components import connected_components
from tests.benchmarks import harness


def main() -> int:
    """Run the benchmark."""
    parser = harness.parser(
        "tests.benchmarks.components",
        "Connected components beside scipy's, on a random graph.",
        "--num-nodes 200000 --num-edges 500000",
    )
    parser.add_argument("--num-nodes", type=int, default=2_000_000, help="nodes")
    parser.add_argument("--num-edges", type=int, default=5_000_000, help="edges, drawn uniformly")
    parser.add_argument("--seed", type=int, default=0, help="of the graph")
    options = parser.parse_args()
    size = options.num_nodes, options.num_edges, options.seed
    edges = random_edges(*size)
    matrix = as_matrix(options.num_nodes, edges)
    timing = harness.measure(
        {
            "ours": lambda: connected_components(options.num_nodes, edges),
            "scipy": lambda: scipy_components(as_matrix(options.num_nodes, edges)),
            "scipy_matrix": lambda: scipy_components(matrix),
        },
        options.rounds,
    )
    for peer in ("scipy", "scipy_matrix"):
        assert np.array_equal(timing.results["ours"], by_lowest_node(timing.results[peer])), f"{peer} joins otherwise"
    work = harness.peak_rss_bytes(_join, *size) - harness.peak_rss_bytes(random_edges, *size)
    keys = {
        "num_nodes": options.num_nodes,
        "num_edges": options.num_edges,
        **timing.speedups(),
        "bytes_per_node": work / options.num_nodes,
    }
    harness.finish("components", timing, keys)
    return 0


def random_edges(num_nodes: int, num_edges: int, seed: int) -> np.ndarray:
    """[num_edges, 2] int64, ends drawn uniformly."""
    if num_nodes < 1 or num_edges < 1:
        raise ValueError(f"--num-nodes {num_nodes} --num-edges {num_edges}: give at least 1 of each")
    return np.random.default_rng(seed).integers(0, num_nodes, (num_edges, 2))


def as_matrix(num_nodes: int, edges: np.ndarray) -> csr_array:
    """The adjacency matrix in the type that scipy's graph routines work on, so that they need not convert it."""
    return csr_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(num_nodes, num_nodes))


def scipy_components(matrix: csr_array) -> np.ndarray:
    """Scipy's label of every node."""
    return csgraph.connected_components(matrix, directed=False)[1]


def by_lowest_node(labels: np.ndarray) -> np.ndarray:
    """The same partition, every node labelled with the lowest node of its part."""
    return np.unique(labels, return_index=True)[1][labels]


def _join(num_nodes: int, num_edges: int, seed: int) -> None:
    connected_components(num_nodes, random_edges(num_nodes, num_edges, seed))


if __name__ == "__main__":
    entry_point(main)
