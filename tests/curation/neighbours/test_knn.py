import numpy as np
import pytest

from curation.neighbours import knn


def _vectors(n, d=32, seed=0, clones=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, d))
    vectors[rng.integers(0, n, clones)] = vectors[0]  # more equal vectors than neighbours are asked for
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(dtype)


def _brute_force(base, queries, k):
    """Oracle in exact rational order: float64 dot products, ties by the lower row."""
    similarities = (queries.astype(np.float64)[:, None] * base.astype(np.float64)[None]).sum(2).astype(np.float32)
    order = np.lexsort((np.broadcast_to(np.arange(len(base)), similarities.shape), -similarities), axis=1)[:, :k]
    return order, np.take_along_axis(similarities, order, 1)


@pytest.mark.parametrize("k", [1, 5, 300, 1000])
def test_top_k_equals_brute_force(k):
    base, queries = _vectors(300), _vectors(40, seed=1)
    rows, similarities = knn.top_k(knn.build(base), base, queries, k)
    expected_rows, expected = _brute_force(base, queries, k)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(similarities, expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_bits_do_not_depend_on_how_queries_are_batched(dtype):
    base = _vectors(2000, clones=200, dtype=dtype)
    index = knn.build(base)
    whole = knn.top_k(index, base, base, 10)
    for size in (1, 7, 64, 999):
        parts = [knn.top_k(index, base, base[i : i + size], 10) for i in range(0, 500, size)]
        for part, expected in zip(map(np.concatenate, zip(*parts, strict=True)), whole, strict=True):
            assert part.tobytes() == expected[: len(part)].tobytes()


def test_clones_beyond_k_name_their_lowest_rows():
    base = _vectors(500, clones=300)
    clones = np.flatnonzero((base == base[0]).all(1))
    rows, _ = knn.top_k(knn.build(base), base, base[clones], 20)
    assert (rows == clones[:20]).all()


def test_similar_pairs_drop_self_and_the_dissimilar():
    base = np.repeat(_vectors(50), 3, axis=0)  # every vector three times
    query, other, similarity = knn.similar_pairs(knn.build(base), base, base[30:60], np.arange(30, 60), 64, 0.99)
    assert set(zip(query + 30, other, strict=True)) == {
        (a, b) for a in range(30, 60) for b in range(150) if a != b and a // 3 == b // 3
    }
    assert (similarity > 0.99).all()
    query, other, _ = knn.similar_pairs(knn.build(base), base, base[:6], None, 64, 0.99)
    assert len(query) == 18


def test_similar_pairs_give_k_neighbours_beside_the_query():
    base = np.repeat(_vectors(1), 10, axis=0)
    query, other, _ = knn.similar_pairs(knn.build(base), base, base, np.arange(10), 4, 0.5)
    assert np.bincount(query).tolist() == [4] * 10
    assert other[query == 9].tolist() == [0, 1, 2, 3]
    assert other[query == 1].tolist() == [0, 2, 3, 4]


def test_the_threshold_itself_is_not_similar():
    base = np.array([[1, 0], [0.6, 0.8]], np.float32)
    assert len(knn.similar_pairs(knn.build(base), base, base, np.arange(2), 1, 0.6)[0]) == 0
    assert len(knn.similar_pairs(knn.build(base), base, base, np.arange(2), 1, 0.59)[0]) == 2


def test_save_and_load(tmp_path):
    base = _vectors(100)
    knn.save(knn.build(base), tmp_path / "index.faiss")
    index = knn.load(tmp_path / "index.faiss")
    for loaded, built in zip(knn.top_k(index, base, base, 5), knn.top_k(knn.build(base), base, base, 5), strict=True):
        np.testing.assert_array_equal(loaded, built)
    with pytest.raises(ValueError, match="no FAISS index"):
        knn.load(tmp_path / "absent")


def test_empty():
    base = _vectors(10)
    assert knn.top_k(knn.build(base), base, base[:0], 3)[0].shape == (0, 3)
    assert knn.top_k(knn.build(base[:0]), base[:0], base, 3)[0].shape == (10, 0)
