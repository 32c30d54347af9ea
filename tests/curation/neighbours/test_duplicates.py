import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, shortest_path

from curation.neighbours.duplicates import preference, relative, resolve
from curation.schema import COMPONENTS


def _graph(seed, n=60, m=45):
    rng = np.random.default_rng(seed)
    ids = np.array([f"{i:04x}" for i in range(n)])
    edges = np.array(sorted({tuple(sorted(rng.choice(n, 2, replace=False))) for _ in range(m)}))
    return ids, edges, rng.uniform(0.6, 1, len(edges)).astype(np.float32), rng


def _matrix(n, edges):
    graph = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(n, n)).tocsr()
    return graph + graph.T


def test_preference():
    ids = np.array(["d", "c", "b", "a", "e"])
    width, height = [100, 100, 300, 100, 90], [200, 100, 100, 100, 900]
    size = [2000, 1500, 1000, 1500, 10**6]
    # "c" and "a" tie but for the id; both hold more bytes a pixel than "d" and "b"; "e" has the shortest short side
    assert ids[np.argsort(preference(ids, width, height, size))].tolist() == ["a", "c", "d", "b", "e"]


@pytest.mark.parametrize("seed", range(10))
def test_resolve(seed):
    ids, edges, similarities, rng = _graph(seed)
    ranks = rng.permutation(len(ids))
    table = resolve(ids, edges, similarities, ranks)
    assert table.schema == COMPONENTS.schema
    rows = table.to_pylist()
    labels = connected_components(_matrix(len(ids), edges), directed=False)[1]
    assert [r["image_id"] for r in rows] == ids[np.unique(edges)].tolist()
    pairs = {frozenset(e): s for e, s in zip(map(tuple, ids[edges]), similarities, strict=True)}
    for row in rows:
        mates = ids[labels == labels[np.searchsorted(ids, row["image_id"])]]
        assert row["component"] == min(mates)
        assert row["representative"] == min(mates, key=lambda i: ranks[np.searchsorted(ids, i)])
        assert row["similarity"] == pairs[frozenset((row["image_id"], row["witness"]))]
        near = {i: pairs[frozenset((i, row["image_id"]))] for i in mates if frozenset((i, row["image_id"])) in pairs}
        assert row["witness"] == (
            row["representative"] if row["representative"] in near else max(near, key=lambda i: near[i])
        )


@pytest.mark.parametrize("seed", range(5))
def test_order_and_direction_of_edges_do_not_matter(seed):
    ids, edges, similarities, rng = _graph(seed)
    ranks, order = rng.permutation(len(ids)), rng.permutation(len(edges))
    again = resolve(ids, edges[order][:, ::-1], similarities[order], ranks)
    assert again.equals(resolve(ids, edges, similarities, ranks))


@pytest.mark.parametrize("seed", range(10))
def test_relative(seed):
    ids, edges, similarities, rng = _graph(seed)
    references = np.array(["ref0", "ref1", "ref2"])
    reference_edges = np.stack([rng.choice(len(ids), 6), rng.integers(0, 3, 6)], 1)
    reference_similarities = rng.uniform(0.45, 1, 6).astype(np.float32)
    arguments = (ids, edges, similarities, references, reference_edges, reference_similarities)
    direct = {r["image_id"]: r for r in relative(*arguments, "direct").to_pylist()}
    whole = {r["image_id"]: r for r in relative(*arguments, "component").to_pylist()}

    labels = connected_components(_matrix(len(ids), edges), directed=False)[1]
    touched = set(reference_edges[:, 0])
    assert set(direct) == set(ids[sorted(touched)])
    assert set(whole) == set(ids[np.isin(labels, labels[sorted(touched)])])
    hops = shortest_path(_matrix(len(ids), edges), unweighted=True)
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


def test_nothing_to_do():
    ids, none, empty = np.array(["a", "b"]), np.empty((0, 2), int), np.empty(0, np.float32)
    assert len(resolve(ids, none, empty, np.arange(2))) == 0
    assert len(relative(ids, none, empty, np.array(["r"]), none, empty, "component")) == 0
    assert len(relative(ids[:0], none, empty, ids[:0], none, empty, "component")) == 0


def test_bad_input():
    none, empty = np.empty((0, 2), int), np.empty(0, np.float32)
    with pytest.raises(ValueError, match="ascending"):
        resolve(np.array(["b", "a"]), none, empty, np.arange(2))
    with pytest.raises(ValueError, match="'chain'"):
        relative(np.array(["a"]), none, empty, np.array(["r"]), none, empty, "chain")
