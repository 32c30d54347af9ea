import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse.csgraph import connected_components, shortest_path

from curation.neighbours.duplicates import PAIRS
from curation.neighbours.relative import evaluation_copies, relative
from tests.curation.neighbours import graphs


def _leaks(seed):
    ids, edges, similarities, rng = graphs.by_chance(seed)
    references = np.array(["ref0", "ref1", "ref2"])
    reference_edges = np.stack([rng.choice(len(ids), 6), rng.integers(0, 3, 6)], 1)
    reference_similarities = rng.uniform(0.45, 1, 6).astype(np.float32)
    return ids, edges, similarities, references, reference_edges, reference_similarities


@pytest.mark.parametrize("seed", range(10))
def test_what_goes_and_why(seed):
    ids, edges, _, references, reference_edges, reference_similarities = arguments = _leaks(seed)
    direct = {r["image_id"]: r for r in relative(*arguments, "direct").to_pylist()}
    whole = {r["image_id"]: r for r in relative(*arguments, "component").to_pylist()}

    labels = connected_components(graphs.matrix(len(ids), edges), directed=False)[1]
    touched = set(reference_edges[:, 0])
    assert set(direct) == set(ids[sorted(touched)])
    assert set(whole) == set(ids[np.isin(labels, labels[sorted(touched)])])
    hops = shortest_path(graphs.matrix(len(ids), edges), unweighted=True)
    known = {(ids[a], references[b], s) for (a, b), s in zip(reference_edges, reference_similarities, strict=True)}
    for image_id, row in whole.items():
        if image_id in direct:
            assert row == direct[image_id]
            assert row["via"] is None
            assert row["similarity"] == max(s for a, _, s in known if a == image_id)
        else:
            distance = hops[np.searchsorted(ids, image_id)]
            assert distance[np.searchsorted(ids, row["via"])] == min(distance[n] for n in touched)
        assert (row["via"] or image_id, row["reference"], np.float32(row["similarity"])) in known


def test_of_two_ways_of_one_length_the_more_similar_last_edge_then_the_lower_id():
    ids, references = np.array(list("abcde")), np.array(["r", "s"])
    edges = np.array([[0, 2], [1, 2], [0, 3], [1, 3], [2, 4]])
    similarities = np.array([0.7, 0.8, 0.7, 0.7, 0.9], np.float32)
    table = relative(
        ids, edges, similarities, references, np.array([[0, 0], [1, 1]]), np.ones(2, np.float32), "component"
    )
    assert {row["image_id"]: row["via"] for row in table.to_pylist()} == {
        "a": None, "b": None, "c": "b", "d": "a", "e": "b",
    }  # fmt: skip


@pytest.mark.parametrize("scope", ["component", "direct"])
@pytest.mark.parametrize("seed", range(3))
def test_tables_in_any_order_and_component_by_component(seed, scope):
    ids, edges, similarities, references, reference_edges, reference_similarities = arguments = _leaks(seed)
    rng = np.random.default_rng(seed)
    pool = pa.table([ids[edges[:, 0]], ids[edges[:, 1]], similarities], schema=PAIRS)
    leaks = pa.table(
        [ids[reference_edges[:, 0]], references[reference_edges[:, 1]], reference_similarities], schema=PAIRS
    )
    expected = relative(*arguments, scope)
    shuffled = [table.take(rng.permutation(len(table))) for table in (pool, leaks)]
    assert evaluation_copies(*shuffled, scope).equals(expected)
    labels = connected_components(graphs.matrix(len(ids), edges), directed=False)[1]
    parts = [
        evaluation_copies(
            pool.filter(labels[edges[:, 0]] == label), leaks.filter(labels[reference_edges[:, 0]] == label), scope
        )
        for label in range(labels.max() + 1)
    ]
    assert pa.concat_tables(parts).sort_by("image_id").equals(expected)


def test_a_long_chain():
    ids = np.array([f"{i:06}" for i in range(100_000)])
    edges = np.stack([np.arange(99_999), np.arange(1, 100_000)], 1)
    table = relative(ids, edges, np.ones(len(edges)), np.array(["r"]), np.array([[7, 0]]), np.ones(1), "component")
    assert len(table) == len(ids)
    assert set(table["via"].to_pylist()) == {None, ids[7]}


def test_nothing_to_do():
    ids, none, empty = np.array(["a", "b"]), np.empty((0, 2), int), np.empty(0, np.float32)
    assert len(relative(ids, none, empty, np.array(["r"]), none, empty, "component")) == 0
    assert len(relative(ids[:0], none, empty, ids[:0], none, empty, "component")) == 0
    assert len(evaluation_copies(PAIRS.empty_table(), PAIRS.empty_table(), "component")) == 0


def test_an_unknown_scope():
    none, empty = np.empty((0, 2), int), np.empty(0, np.float32)
    with pytest.raises(ValueError, match="'chain'"):
        relative(np.array(["a"]), none, empty, np.array(["r"]), none, empty, "chain")
