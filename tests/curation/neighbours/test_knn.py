import numpy as np
import pytest
import torch

from curation.neighbours import faiss_knn, knn, tiles
from tests.curation.neighbours.clones import same_matches, unit_vectors

BOTH = pytest.mark.parametrize("nearest", [knn.nearest, faiss_knn.nearest], ids=["ours", "faiss"])


def _brute_force(base, queries, k):
    """Oracle: float64 dot products, ties by the lower row."""
    similarities = (queries.astype(np.float64)[:, None] * base.astype(np.float64)[None]).sum(2).astype(np.float32)
    order = np.lexsort((np.broadcast_to(np.arange(len(base)), similarities.shape), -similarities), axis=1)[:, :k]
    return order, np.take_along_axis(similarities, order, 1)


@pytest.mark.parametrize("k", [1, 5, 300, 1000])
@pytest.mark.parametrize("tile", [65_536, 100, 7])
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float32])
def test_nearest_equals_brute_force_in_tiles_of_any_size(monkeypatch, k, tile, precision):
    monkeypatch.setattr(knn, "_TILE_ROWS", tile)
    monkeypatch.setattr(knn, "BLOCK_ROWS", min(tile, 1024))
    monkeypatch.setattr(knn, "_QUERIES", 29)
    monkeypatch.setattr(tiles, "product_dtype", lambda _: precision)
    base, queries = unit_vectors(300), unit_vectors(40, seed=1)
    found = knn.nearest(base, queries, k)
    expected_rows, expected = _brute_force(base, queries, k)
    assert found.query.tolist() == np.repeat(np.arange(40), min(k, 300)).tolist()
    assert found.rank().tolist() == list(range(1, min(k, 300) + 1)) * 40
    np.testing.assert_array_equal(found.row, expected_rows.ravel())
    np.testing.assert_allclose(found.similarity, expected.ravel(), atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_bits_do_not_depend_on_how_queries_or_rows_are_batched(monkeypatch, dtype):
    base = unit_vectors(2000, clones=200, dtype=dtype)
    whole = knn.nearest(base, base[:500], 10)
    monkeypatch.setattr(knn, "_TILE_ROWS", 333)
    for size in (1, 64, 499):
        parts = []
        for start in range(0, 500, size):
            part = knn.nearest(base, base[start : min(start + size, 500)], 10)
            parts.append(knn.Matches(part.query + start, part.row, part.similarity))
        assert same_matches(knn.best(parts, 10), whole)


def test_clones_beyond_k_name_their_lowest_rows():
    base = unit_vectors(500, clones=300)
    clones = np.flatnonzero((base == base[0]).all(1))
    found = knn.nearest(base, base[clones], 20)
    assert (found.row.reshape(-1, 20) == clones[:20]).all()


def test_the_dead_are_not_found():
    base, alive = unit_vectors(300), np.random.default_rng(0).random(300) < 0.5
    found = knn.nearest(base, base[:50], 7, alive)
    living = np.flatnonzero(alive)
    expected = knn.nearest(base[alive], base[:50], 7)
    assert same_matches(found, knn.Matches(expected.query, living[expected.row], expected.similarity))
    assert len(knn.nearest(base, base[:50], 7, np.zeros(300, bool))) == 0


@BOTH
def test_empty(nearest):
    base = unit_vectors(10)
    assert len(nearest(base, base[:0], 3)) == 0
    assert len(nearest(base[:0], base, 3)) == 0


@BOTH
def test_refuses_what_cannot_be(nearest):
    base = unit_vectors(300)
    with pytest.raises(ValueError, match="k 0"):
        nearest(base, base, 0)
    bad = base.copy()
    bad[[17, 20]] = np.nan
    with pytest.raises(ValueError, match="row 17 of the base is not finite"):
        nearest(bad, base, 3)
    with pytest.raises(ValueError, match="row 17 of the queries"):
        nearest(base, bad, 3)
