import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components as scipy_components

from curation.neighbours.components import connected_components


def _oracle(num_nodes, edges):
    graph = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(num_nodes, num_nodes))
    labels = scipy_components(graph, directed=False)[1]
    lowest = np.full(num_nodes, num_nodes)
    np.minimum.at(lowest, labels, np.arange(num_nodes))
    return lowest[labels]


@pytest.mark.parametrize("seed", range(20))
def test_equals_scipy_in_any_order(seed):
    rng = np.random.default_rng(seed)
    num_nodes = int(rng.integers(1, 3000))
    edges = rng.integers(0, num_nodes, (int(num_nodes * rng.uniform(0, 1.2)), 2))
    expected = _oracle(num_nodes, edges)
    assert np.array_equal(connected_components(num_nodes, edges), expected)
    shuffled = rng.permutation(np.concatenate([edges[:, ::-1], edges]))
    assert np.array_equal(connected_components(num_nodes, shuffled), expected)


def test_a_long_chain_in_the_worst_order():
    nodes = np.random.default_rng(0).permutation(100_000)
    edges = np.stack([nodes[:-1], nodes[1:]], 1)
    assert not connected_components(100_000, edges).any()


def test_no_edges_and_loops():
    assert connected_components(3, np.empty((0, 2))).tolist() == [0, 1, 2]
    assert connected_components(3, np.array([[2, 2]])).tolist() == [0, 1, 2]
    assert connected_components(0, np.empty((0, 2))).tolist() == []


def test_unknown_node():
    with pytest.raises(ValueError, match="outside 0 to 2"):
        connected_components(3, np.array([[0, 3]]))
