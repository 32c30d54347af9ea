import numpy as np
import pytest

from curation.clusters import kmeans, nearest
from curation.clusters.points import StoredPoints
from curation.clusters.start import start


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


def test_no_cell_stays_empty():
    vectors, _ = _blobs(num_blobs=3, per_blob=50)
    lloyd, centroids = kmeans.Lloyd(vectors, 10), np.repeat(vectors[:1], 10, axis=0)  # one centroid ten times
    for _ in range(30):
        centroids = lloyd.improved(centroids)
    assert len(set(kmeans.assign(vectors, centroids)[0])) == 10


def test_the_widest_cells_are_split_for_those_that_hold_next_to_nothing():
    counts = np.array([0, 9, 0, 4, 20, 3, 1])
    spread = np.array([0, 9, 0, 4, 20, 0.1, 0])
    weak, donors = kmeans.refills(counts, spread, 0.0)
    assert (weak.tolist(), donors) == ([0, 2], {4: 2})  # 20, then 10 of it that are left
    assert kmeans.refills(counts, spread, 0.3)[1] == donors, "of seven, no more than the empty ones"
    many = np.tile([9, 4, 20, 3], 8), np.tile([9, 4, 20, 0.1], 8)
    weak, donors = kmeans.refills(*many, 0.3)
    assert (weak.tolist(), donors) == ([3, 7], {2: 1, 6: 1})
    assert len(kmeans.refills(*many, 0.0)[0]) == 0
    assert kmeans.refills(np.array([2, 0, 0]), np.array([5.0, 0, 0]), 0.0)[1] == {0: 1}, "one stays"
    vectors = np.array([[1, 0], [0.8, 0.6], [0.96, 0.28], [0, 1]], np.float32)
    centroids = np.array([[1, 0], [0, -1], [0, 1]], np.float32)
    new = kmeans.Lloyd(vectors, 3).improved(centroids)
    between = new[0] + vectors[1]
    np.testing.assert_allclose(new[1], between / np.linalg.norm(between), atol=1e-6)


def test_weak_cells_that_move_lower_the_inertia():
    vectors = clustered(num=4000, num_blobs=40)

    def mean_similarity(share):
        fits = []
        for seed in range(4):
            lloyd, centroids = kmeans.Lloyd(vectors, 60), kmeans.first_centroids(vectors, 60, seed)
            for number in range(20):
                centroids = lloyd.improved(centroids, share if number < 10 else 0.0)
            fits.append(kmeans.assign(vectors, centroids)[1].mean())
        return np.mean(fits)

    assert mean_similarity(0.3) > mean_similarity(0.0)


def clustered(num=6000, d=32, num_blobs=600, dtype=np.float16, seed=0):
    rng = np.random.default_rng(seed)
    middles = rng.standard_normal((num_blobs, d))
    return _unit(middles[rng.integers(0, num_blobs, num)] + 0.8 * rng.standard_normal((num, d)), dtype)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_what_bounds_pass_over_is_never_the_nearest(dtype):
    vectors, k, looked_at = clustered(dtype=dtype), 400, []
    centroids, lloyd = kmeans.first_centroids(vectors, k, 0), kmeans.Lloyd(vectors, k)
    for _ in range(15):
        clusters, similarities = kmeans.assign(vectors, centroids)
        sums, counts = kmeans.partial_sums(vectors, clusters, k)
        expected = kmeans.normalised(sums, centroids)
        before, centroids = centroids, lloyd.improved(centroids)
        places = lloyd.places
        assert np.array_equal(places.clusters, clusters)
        assert np.array_equal(places.similarities, similarities)
        assert counts.all()
        assert centroids.tobytes() == expected.tobytes()
        chunk = nearest.Chunk(vectors, vectors.astype(np.float32), places)
        moves = lloyd.moves.further(before, centroids, lloyd.groups)
        looked_at.append(nearest.Nearest(centroids, lloyd.groups, moves).needed(chunk).mean())
    assert 0 < looked_at[-1] < 0.5 < looked_at[0], "bounds save nothing, or all, so this test shows nothing"


def test_bounds_hold_where_clusters_jump():
    vectors, rng = clustered(), np.random.default_rng(1)
    centroids, lloyd = kmeans.first_centroids(vectors, 300, 0), kmeans.Lloyd(vectors, 300)
    for _ in range(8):
        lloyd.improved(centroids)
        clusters, similarities = kmeans.assign(vectors, centroids)
        assert np.array_equal(lloyd.places.clusters, clusters)
        assert np.array_equal(lloyd.places.similarities, similarities)
        centroids = _unit(centroids + 0.02 * rng.standard_normal(centroids.shape))
        jumping = rng.choice(300, 5)
        centroids[jumping] = vectors[rng.choice(len(vectors), 5)]


def test_memory_threads_and_files_change_no_bit(tmp_path):
    vectors = clustered()
    trained = kmeans.train(vectors, 300, 6, 0).tobytes()
    least = kmeans.needed_bytes(*vectors.shape, 300)
    np.save(tmp_path / "points.npy", vectors)
    assert kmeans.train(vectors, 300, 6, 0, memory_bytes=least, num_threads=1).tobytes() == trained
    assert kmeans.train(StoredPoints(tmp_path / "points.npy"), 300, 6, 0, num_threads=3).tobytes() == trained
    with pytest.raises(ValueError, match=f"{least - 1} bytes of memory: .* needs {least}"):
        kmeans.train(vectors, 300, 6, 0, memory_bytes=least - 1)


def test_stored_points_are_those_of_the_array(tmp_path):
    vectors = clustered(num=100)
    np.save(tmp_path / "points.npy", vectors)
    points = StoredPoints(tmp_path / "points.npy")
    assert points.shape == vectors.shape
    for rows in (slice(0, 7), slice(93, 200), slice(40, 40), slice(None)):
        assert np.array_equal(points[rows], vectors[rows])
    np.save(tmp_path / "flat.npy", vectors[0])
    with pytest.raises(ValueError, match=r"flat.npy: points are \[n, d\]"):
        StoredPoints(tmp_path / "flat.npy")


def test_all_at_once_is_the_same():
    vectors = clustered(num=1000)
    centroids = np.repeat(kmeans.first_centroids(vectors, 70, 0), 2, axis=0)
    chosen = nearest.Places.unknown(len(vectors))
    nearest.Nearest(centroids).on_gpu(nearest.Chunk(vectors, vectors.astype(np.float32), chosen))
    clusters, similarities = kmeans.assign(vectors, centroids)
    assert np.array_equal(chosen.clusters, clusters)
    assert np.array_equal(chosen.similarities, similarities)


def test_a_centroid_that_is_far_from_all_is_found():
    centroids = np.array([[-1, 0], [-0.6, -0.8]], np.float32)
    clusters, similarities = kmeans.assign(np.array([[1, 0], [0, 1]], np.float32), centroids)
    assert clusters.tolist() == [1, 0]
    assert similarities.tolist() == [np.float32(-0.6), 0]


def test_a_start_spreads_and_has_no_row_twice():
    vectors, truth = _blobs(num_blobs=40, per_blob=30, noise=0.02)
    rows = start(vectors, 40, 0)
    assert len(set(rows)) == 40
    assert len(set(truth[rows])) >= 38  # at random, it would be 25
    assert np.array_equal(rows, start(vectors, 40, 0, num_threads=3))
    clones = np.repeat(vectors[:3], 5, axis=0)
    assert len({row // 5 for row in start(clones, 3, 1)}) == 3
    assert sorted(start(clones, 15, 1)) == list(range(15))


@pytest.mark.parametrize(("value", "match"), [(np.inf, "not finite"), (1.5, "unit length")])
def test_points_that_are_not_on_the_sphere(value, match):
    vectors = clustered(num=500).astype(np.float32)
    vectors[77] = 0
    vectors[77, 3] = value
    with pytest.raises(ValueError, match=match):
        kmeans.train(vectors, 280, 2, 0)


def test_fewer_distinct_vectors_than_clusters():
    vectors = np.repeat(np.eye(3, dtype=np.float32), 5, axis=0)
    clusters, similarities = kmeans.assign(vectors, kmeans.train(vectors, 6, 10, 0))
    assert len(set(clusters)) == 3
    assert (similarities == 1).all()


@pytest.mark.parametrize("k", [0, 11])
def test_bad_k(k):
    with pytest.raises(ValueError, match=f"k = {k}"):
        kmeans.train(np.eye(10, dtype=np.float32), k, 1, 0)
