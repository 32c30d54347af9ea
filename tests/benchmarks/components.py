"""Components and spanning forests of a random graph: curation.neighbours beside scipy.sparse.csgraph.

Both start from the list of edges, which is what a join of similar pairs gives; so ``scipy`` and ``scipy_forest``
include making its sparse matrix. ``scipy_matrix`` starts from the finished matrix. Edges drawn uniformly are the worst
case for either, since no two accesses to memory lie near each other; their components are one giant and many crumbs.

The memory is that of edges which stream past and are held by nobody.
"""

from collections.abc import Iterator

import numpy as np
from scipy.sparse import csgraph, csr_array

from conf import entry_point
from curation.neighbours.components import connected_components
from curation.neighbours.forest import Forest, maximum_spanning_forest
from tests.benchmarks import harness

_CHUNK = 2**20  # edges made at once
_FLOOR = 0.6


def main() -> int:
    """Run the benchmark."""
    parser = harness.parser(
        "tests.benchmarks.components",
        "Connected components and maximum spanning forests beside scipy's, on a random graph.",
        "--num-nodes 200000 --num-edges 500000",
        rounds=3,
    )
    parser.add_argument("--num-nodes", type=int, default=20_000_000, help="nodes")
    parser.add_argument("--num-edges", type=int, default=50_000_000, help="edges, drawn uniformly")
    parser.add_argument("--forest-share", type=float, default=0.1, help="of the nodes and edges, for the forests")
    parser.add_argument("--seed", type=int, default=0, help="of the graph")
    options = parser.parse_args()
    share, size = options.forest_share, (options.num_nodes, options.num_edges, options.seed)
    if not 0 < share <= 1:
        raise ValueError(f"--forest-share {share}: give more than 0 and at most 1")
    timing = measure_components(*size, options.rounds)
    part = [max(1, round(share * count)) for count in size[:2]]
    forests = measure_forests(*part, options.seed, options.rounds)
    work = harness.peak_rss_bytes(_join, *size) - harness.peak_rss_bytes(_join_nothing, *size)
    print(f"spanning forests, {share:g} of the nodes and edges:\n{forests.table()}\ncomponents:")
    keys = {
        "num_nodes": options.num_nodes,
        "num_edges": options.num_edges,
        **timing.speedups(),
        "edges_per_s": options.num_edges / timing.median_s(),
        "bytes_per_node": work / options.num_nodes,
        "forest_share": share,
        **forests.speedups(),
    }
    harness.finish("components", timing, keys)
    return 0


def measure_components(num_nodes: int, num_edges: int, seed: int, rounds: int) -> harness.Timing:
    """Ours, scipy with and without making its matrix; they must agree."""
    edges = np.concatenate(list(random_edges(num_nodes, num_edges, seed)))
    matrix = as_matrix(num_nodes, edges, np.ones(len(edges)))
    timing = harness.measure(
        {
            "ours": lambda: connected_components(num_nodes, edges),
            "scipy": lambda: scipy_components(as_matrix(num_nodes, edges, np.ones(len(edges)))),
            "scipy_matrix": lambda: scipy_components(matrix),
        },
        rounds,
    )
    for peer in ("scipy", "scipy_matrix"):
        assert np.array_equal(timing.results["ours"], by_lowest_node(timing.results[peer])), f"{peer} joins otherwise"
    return timing


def measure_forests(num_nodes: int, num_edges: int, seed: int, rounds: int) -> harness.Timing:
    """Ours and scipy's minimum spanning tree of the distances 2 - similarity; they must weigh the same."""
    edges = np.concatenate(list(random_edges(num_nodes, num_edges, seed)))
    edges = np.unique(np.sort(edges[edges[:, 0] != edges[:, 1]], axis=1), axis=0)  # scipy would add weights of one pair
    similarities = np.random.default_rng(seed).uniform(_FLOOR, 1, len(edges)).astype(np.float32)

    def scipy_forest() -> csr_array:
        return csgraph.minimum_spanning_tree(as_matrix(num_nodes, edges, 2 - similarities.astype(np.float64)))

    def ours() -> Forest:
        return maximum_spanning_forest(num_nodes, [(edges, similarities)], _FLOOR)

    timing = harness.measure({"ours": ours, "scipy_forest": scipy_forest}, rounds)
    forest, tree = timing.results["ours"], timing.results["scipy_forest"]
    assert len(forest.edges) == tree.nnz, "scipy keeps another number of edges"
    assert np.isclose(2 * tree.nnz - tree.sum(), forest.similarities.sum(dtype=np.float64)), "scipy's weighs otherwise"
    return timing


def random_edges(num_nodes: int, num_edges: int, seed: int) -> Iterator[np.ndarray]:
    """[m, 2] int32 in chunks, ends drawn uniformly."""
    if not (1 <= num_nodes <= 2**31 and num_edges >= 1):
        raise ValueError(f"--num-nodes {num_nodes} --num-edges {num_edges}: give at least 1 of each, nodes up to 2**31")
    rng = np.random.default_rng(seed)
    for start in range(0, num_edges, _CHUNK):
        yield rng.integers(0, num_nodes, (min(_CHUNK, num_edges - start), 2), dtype=np.int32)


def as_matrix(num_nodes: int, edges: np.ndarray, weights: np.ndarray) -> csr_array:
    """The adjacency matrix in the types that scipy's graph routines work on, so that they need not convert it."""
    return csr_array((weights, (edges[:, 0], edges[:, 1])), shape=(num_nodes, num_nodes))


def scipy_components(matrix: csr_array) -> np.ndarray:
    """Scipy's label of every node."""
    return csgraph.connected_components(matrix, directed=False)[1]


def by_lowest_node(labels: np.ndarray) -> np.ndarray:
    """The same partition, every node labelled with the lowest node of its part."""
    return np.unique(labels, return_index=True)[1][labels]


def _join(num_nodes: int, num_edges: int, seed: int) -> None:
    connected_components(num_nodes, random_edges(num_nodes, num_edges, seed))


def _join_nothing(num_nodes: int, num_edges: int, seed: int) -> None:
    """All that ``_join`` needs but the nodes: the code, compiled, and the edges."""
    connected_components(2, np.array([[0, 1]]))
    for _ in random_edges(num_nodes, num_edges, seed):
        pass


if __name__ == "__main__":
    entry_point(main)
