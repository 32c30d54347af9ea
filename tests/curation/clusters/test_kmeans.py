import numpy as np
import pytest

from curation.clusters import kmeans


def _unit(x, dtype=np.float32):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(dtype)


def _blobs(num_blobs=8, per_blob=100, d=16, noise=0.1, seed=0):
    rng = np.random.default_rng(seed)
    centres = _unit(rng.standard_normal((num_blobs, d)))
    truth = rng.permutation(np.repeat(np.arange(num_blobs), per_blob))
    return _unit(centres[truth] + noise * rng.standard_normal((len(truth), d))), truth


@pytest.mark.parametrize("seed", range(5))
def test_finds_separate_blobs(seed):
    vectors, truth = _blobs(noise=0.03, seed=seed)
    clusters, _ = kmeans.assign(vectors, kmeans.train(vectors, 8, 20, seed))
    assert len(set(zip(truth, clusters, strict=True))) == 8


def test_assign_equals_brute_force():
    vectors, _ = _blobs()
    centroids = _unit(np.random.default_rng(1).standard_normal((37, 16)))
    clusters, similarities = kmeans.assign(vectors, centroids)
    exact = (vectors.astype(np.float64)[:, None] * centroids.astype(np.float64)).sum(2)
    assert np.array_equal(clusters, exact.argmax(1))
    np.testing.assert_allclose(similarities, exact.max(1), atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_assignment_bits_do_not_depend_on_the_batch(dtype):
    vectors = _blobs()[0].astype(dtype)
    centroids = np.repeat(_unit(np.random.default_rng(1).standard_normal((20, 16))), 2, axis=0)  # every one twice
    clusters, similarities = kmeans.assign(vectors, centroids)
    assert (clusters % 2 == 0).all()  # ties go to the lower cluster
    rows = np.random.default_rng(2).permutation(len(vectors))
    for part in np.array_split(rows, 97):
        again = kmeans.assign(vectors[part], centroids)
        assert again[0].tobytes() == clusters[part].tobytes()
        assert again[1].tobytes() == similarities[part].tobytes()


def test_sums_of_parts_are_the_sum_of_the_whole():
    vectors, _ = _blobs()
    clusters = np.random.default_rng(0).integers(0, 5, len(vectors)).astype(np.int32)
    sums, counts = kmeans.partial_sums(vectors, clusters, 6)
    parts = [kmeans.partial_sums(vectors[i::7], clusters[i::7], 6) for i in range(7)]
    assert np.array_equal(sum(p[0] for p in parts), sums)
    assert np.array_equal(sum(p[1] for p in parts), counts)
    for cluster in range(6):
        expected = vectors[clusters == cluster].astype(np.float64).sum(0)
        np.testing.assert_allclose(sums[cluster] / 2**30, expected, atol=1e-6)


def test_more_rounds_never_worsen_the_fit():
    vectors, _ = _blobs(num_blobs=30, noise=0.5)
    fits = [kmeans.assign(vectors, kmeans.train(vectors, 12, n, 0))[1].mean() for n in (0, 1, 2, 5, 20)]
    assert fits == sorted(fits)
    assert fits[-1] > fits[0]


def test_same_seed_same_bytes():
    vectors, _ = _blobs(noise=0.4)
    assert kmeans.train(vectors, 9, 10, 3).tobytes() == kmeans.train(vectors, 9, 10, 3).tobytes()
    assert kmeans.train(vectors, 9, 0, 3).tobytes() != kmeans.train(vectors, 9, 0, 4).tobytes()


def test_no_cell_stays_empty(monkeypatch):
    vectors, _ = _blobs(num_blobs=3, per_blob=50)
    monkeypatch.setattr(kmeans, "_start", lambda v, k, _: np.repeat(v[:1], k, axis=0))  # one centroid k times
    clusters, _ = kmeans.assign(vectors, kmeans.train(vectors, 10, 30, 0))
    assert len(set(clusters)) == 10


def test_fewer_distinct_vectors_than_clusters():
    vectors = np.repeat(np.eye(3, dtype=np.float32), 5, axis=0)
    clusters, similarities = kmeans.assign(vectors, kmeans.train(vectors, 6, 10, 0))
    assert len(set(clusters)) == 3
    assert (similarities == 1).all()


@pytest.mark.parametrize("k", [0, 11])
def test_bad_k(k):
    with pytest.raises(ValueError, match=f"k = {k}"):
        kmeans.train(np.eye(10, dtype=np.float32), k, 1, 0)
