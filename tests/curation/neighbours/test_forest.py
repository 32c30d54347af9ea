import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree

from curation.neighbours import forest
from curation.neighbours.components import connected_components
from curation.neighbours.forest import maximum_spanning_forest, merge
from tests.curation.neighbours import graphs

FLOOR = 0.595


def _made(seed, num_edges=150):
    ids, edges, similarities, rng = graphs.by_chance(seed, num_edges=num_edges)
    return len(ids), edges, similarities, rng


def _rows(forest):
    return np.column_stack([forest.edges, forest.similarities]).tolist()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_edges", [40, 150])
def test_components_and_counts_equal_those_of_all_edges_at_every_threshold(seed, num_edges):
    num_nodes, edges, similarities, rng = _made(seed, num_edges)
    made = maximum_spanning_forest(num_nodes, [(edges, similarities)], FLOOR)
    thresholds = rng.permutation([FLOOR, 0.6, 0.62, 0.63, 0.655, 0.69, 0.7, 2]).tolist()
    for threshold, count in zip(thresholds, made.counts(thresholds), strict=True):
        direct = connected_components(num_nodes, edges[similarities > np.float32(threshold)])
        assert np.array_equal(made.components(threshold), direct)
        sizes = np.bincount(direct)
        assert count.threshold == threshold
        assert count.num_groups == (sizes > 1).sum()
        assert count.num_grouped == sizes[sizes > 1].sum()
        assert count.num_dropped == num_nodes - len(np.unique(direct))
        assert count.largest == sizes.max()


@pytest.mark.parametrize("seed", range(5))
def test_weighs_as_much_as_scipys(seed):
    num_nodes, edges, _, rng = _made(seed)
    similarities = rng.uniform(0.6, 1, len(edges)).astype(np.float32)
    made = maximum_spanning_forest(num_nodes, [(edges, similarities)], FLOOR)
    distances = coo_array((2 - similarities.astype(float), (edges[:, 0], edges[:, 1])), shape=(num_nodes, num_nodes))
    tree = minimum_spanning_tree(distances.tocsr()).tocoo()
    pairs = {tuple(sorted(pair)) for pair in zip(tree.row.tolist(), tree.col.tolist(), strict=True)}
    assert {tuple(edge) for edge in made.edges.tolist()} == pairs  # no two similarities are equal, so there is only one


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    num_edges=st.integers(1, 200),
    num_parts=st.integers(1, 6),
    num_forests=st.integers(1, 4),
)
def test_any_order_parts_and_merges_give_the_same_forest(seed, num_edges, num_parts, num_forests):
    num_nodes, edges, similarities, rng = _made(seed, num_edges)
    whole = maximum_spanning_forest(num_nodes, [(edges, similarities)], FLOOR)
    order = rng.permutation(np.concatenate([np.arange(len(edges)), rng.choice(len(edges), 10)]))  # some come twice
    flipped = np.where(rng.random((len(order), 1)) < 0.5, edges[order], edges[order][:, ::-1])
    of_forest = np.array_split(np.arange(len(order)), num_forests)
    forests = [
        maximum_spanning_forest(
            num_nodes, ((flipped[part], similarities[order][part]) for part in np.array_split(rows, num_parts)), FLOOR
        )
        for rows in of_forest
    ]
    again = merge(rng.permutation(np.array(forests, object)).tolist())
    assert _rows(again) == _rows(whole)


def test_parts_are_reduced_as_they_come(monkeypatch):
    num_nodes, edges, similarities, _ = _made(0)
    whole = maximum_spanning_forest(num_nodes, [(edges, similarities)], FLOOR)
    held = []
    reduced = forest._reduced
    monkeypatch.setattr(forest, "_PENDING_EDGES", 10)
    monkeypatch.setattr(
        forest, "_reduced", lambda n, parts: held.append(sum(len(e) for e, _ in parts)) or reduced(n, parts)
    )
    parts = [(edges[i : i + 7], similarities[i : i + 7]) for i in range(0, len(edges), 7)]
    assert _rows(maximum_spanning_forest(num_nodes, parts, FLOOR)) == _rows(whole)
    assert len(held) > 2
    assert max(held) <= 2 * num_nodes + 7


def test_similarities_of_any_sign_keep_their_order():
    edges = np.array([[0, 1], [1, 2], [0, 2], [3, 4], [4, 5], [3, 5]])
    similarities = np.array([-0.5, -0.25, -0.75, 0.0, -0.0, 0.5], np.float32)
    made = maximum_spanning_forest(6, [(edges, similarities)])
    assert made.edges.tolist() == [[3, 5], [3, 4], [1, 2], [0, 1]]


def test_without_edges():
    made = maximum_spanning_forest(3, [], FLOOR)
    assert made.components(0.7).tolist() == [0, 1, 2]
    assert [(c.num_groups, c.num_grouped, c.largest, c.num_dropped) for c in made.counts([0.7])] == [(0, 0, 1, 0)]


def test_bad_input():
    made = maximum_spanning_forest(3, [], FLOOR)
    with pytest.raises(ValueError, match=r"threshold 0.5 lies below 0.595.*join again"):
        made.components(0.5)
    with pytest.raises(ValueError, match="threshold nan"):
        made.counts([0.7, np.nan])
    with pytest.raises(ValueError, match="outside 0 to 2"):
        maximum_spanning_forest(3, [(np.array([[0, 3]]), np.array([0.7]))], FLOOR)
    with pytest.raises(ValueError, match="all numbers"):
        maximum_spanning_forest(3, [(np.array([[0, 1]]), np.array([np.nan]))], FLOOR)
    with pytest.raises(ValueError, match="one number of nodes and one floor"):
        merge([made, maximum_spanning_forest(3, [], 0.7)])
