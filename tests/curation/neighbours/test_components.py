import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components as scipy_components

from curation.neighbours import components
from curation.neighbours.components import UnionFind, connected_components, forests, spanning_forest


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


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    num_parts=st.integers(1, 9),
    dtype=st.sampled_from([np.uint32, np.int32, np.int64, np.uint64]),
)
def test_streamed_parts_and_merged_forests_equal_scipy(seed, num_parts, dtype):
    rng = np.random.default_rng(seed)
    num_nodes = int(rng.integers(1, 300))
    edges = rng.integers(0, num_nodes, (int(num_nodes * rng.uniform(0, 1.2)), 2)).astype(dtype)
    expected = _oracle(num_nodes, edges)
    parts = np.split(rng.permutation(edges), np.sort(rng.integers(0, len(edges) + 1, num_parts - 1)))
    assert np.array_equal(connected_components(num_nodes, iter(parts)), expected)
    forests = [spanning_forest(part) for part in parts]
    assert np.array_equal(connected_components(num_nodes, forests), expected)
    whole = spanning_forest(np.concatenate(forests[::-1]))
    assert np.array_equal(whole, spanning_forest(edges))
    assert len(whole) == num_nodes - len(np.unique(expected))
    halves = [UnionFind(num_nodes), UnionFind(num_nodes)]
    for i, part in enumerate(parts):
        halves[i % 2].add(part)
    for forest in halves[1].forest():
        halves[0].add(forest)
    assert np.array_equal(halves[0].components(), expected)


def test_chunks_and_layouts(monkeypatch):
    monkeypatch.setattr(components, "_CHUNK_EDGES", 7)
    rng = np.random.default_rng(0)
    edges = rng.integers(0, 200, (150, 2))
    expected = _oracle(200, edges)
    for same in (edges, np.asfortranarray(edges), np.repeat(edges, 2, axis=0)[::2], edges.astype(np.uint32)):
        assert np.array_equal(connected_components(200, same), expected)
    sets = UnionFind(200)
    sets.add(edges)
    forest = list(sets.forest())
    assert max(map(len, forest)) <= 7
    assert np.array_equal(connected_components(200, forest), expected)


def test_a_long_chain_in_the_worst_order():
    nodes = np.random.default_rng(0).permutation(100_000)
    edges = np.stack([nodes[:-1], nodes[1:]], 1)
    assert not connected_components(100_000, edges).any()


def test_edges_join_after_a_look_at_the_components():
    sets = UnionFind(4)
    sets.add(np.array([[2, 3]]))
    assert sets.components().tolist() == [0, 1, 2, 2]
    sets.add(np.array([[3, 1]]))
    assert sets.components().tolist() == [0, 1, 1, 1]
    with pytest.raises(ValueError, match="read-only"):
        sets.components()[0] = 1


@pytest.mark.parametrize("pending", [1, 40, 2**22])
def test_a_task_keeps_less_than_an_edge_a_node(monkeypatch, pending):
    monkeypatch.setattr(components, "_PENDING_EDGES", pending)
    rng = np.random.default_rng(1)
    edges = rng.integers(0, 300, (4000, 2))
    edges = edges[edges[:, 0] % 3 == edges[:, 1] % 3] + 2**32 - 300
    kept = np.concatenate(list(forests(np.array_split(edges, 30))))
    assert np.array_equal(kept, spanning_forest(edges))
    assert len(kept) == 297
    assert list(forests([])) == []


def test_four_bytes_a_node():
    assert connected_components(1000, []).nbytes == 4000


def test_no_edges_and_loops():
    assert connected_components(3, np.empty((0, 2))).tolist() == [0, 1, 2]
    assert connected_components(3, np.array([[2, 2]])).tolist() == [0, 1, 2]
    assert connected_components(0, np.empty((0, 2))).tolist() == []
    assert spanning_forest(np.empty((0, 2), np.uint32)).shape == (0, 2)
    assert spanning_forest(np.array([[7, 7]])).shape == (0, 2)


def test_bad_input():
    for edges in ([[0, 3]], [[-1, 0]]):
        with pytest.raises(ValueError, match="outside 0 to 2"):
            connected_components(3, np.array(edges))
    with pytest.raises(ValueError, match=r"\[m, 2\] integers, not \[1, 2\] float64"):
        connected_components(3, np.array([[0.0, 1.0]]))
    with pytest.raises(ValueError, match=r"not \[1, 3\]"):
        connected_components(3, np.array([[0, 1, 2]]))
    with pytest.raises(ValueError, match=r"at most 4294967296; spark_jobs\.stars"):
        UnionFind(2**32 + 1)
    for bad in (-1, 2**32):
        with pytest.raises(ValueError, match=f"{bad}.*outside 0 to 4294967295"):
            spanning_forest(np.array([[bad, 5]]))
