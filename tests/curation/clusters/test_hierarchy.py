import numpy as np
import pytest

from curation.clusters import cost, hierarchy, kmeans


def unbalanced(sizes, noise=0.05, d=8, seed=0):
    """Vectors about as many directions as there are sizes."""
    rng = np.random.default_rng(seed)
    middles = np.linalg.qr(rng.standard_normal((d, d)))[0][: len(sizes)]
    vectors = np.repeat(middles, sizes, axis=0) + noise * rng.standard_normal((sum(sizes), d))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_every_level_is_nearest_to_its_parents():
    bottom = kmeans.train(unbalanced([400, 100, 20]), 60, 10, 0)
    tree = hierarchy.build(bottom, [20, 5, 3], 10, 4, 2, 0)
    below = bottom
    for level, k in zip(tree, [20, 5, 3], strict=True):
        assert level.centroids.shape == (k, 8)
        assert np.array_equal(level.parents, (below @ level.centroids.T).argmax(1))
        assert len(set(level.parents)) == k
        below = level.centroids
    again = hierarchy.build(bottom, [20, 5, 3], 10, 4, 2, 0)
    assert all(a.centroids.tobytes() == b.centroids.tobytes() for a, b in zip(tree, again, strict=True))


def test_no_level_has_more_than_there_is_below():
    tree = hierarchy.build(np.eye(3, dtype=np.float32), [9, 2], 5, 4, 1, 0)
    assert [len(level.centroids) for level in tree] == [3, 2]


@pytest.mark.parametrize("seed", range(3))
def test_resampling_gives_clusters_to_small_concepts(seed):
    sizes = [300, 20, 20, 20]
    below, concept = unbalanced(sizes, noise=0.1, d=16, seed=seed), np.repeat(range(4), sizes)

    def of_small_ones(num_rounds):
        (level,) = hierarchy.build(below, [12], 20, 4, num_rounds, 0)
        return len(set(level.parents[concept > 0]) - set(level.parents[concept == 0]))

    assert of_small_ones(4) > of_small_ones(0) + 1


def test_closest_members():
    clusters = np.array([0, 1, 0, 0, 1, 2])
    similarities = np.array([0.5, 0.9, 0.7, 0.7, 0.8, 0.1], np.float32)
    assert hierarchy.closest(clusters, similarities, 2).tolist() == [1, 2, 3, 4, 5]
    assert hierarchy.closest(clusters, similarities, 1).tolist() == [1, 2, 5]


def test_cost_of_the_papers_clusters():
    start, training, assignment = cost.lloyd(744e6, 1280, 100_000, 20, 64)
    assert training.flop == pytest.approx(20 * 25.6e6 * 1e5 * 2560)
    assert assignment.flop == pytest.approx(744e6 * 1e5 * 2560)
    assert start.flop < training.flop / 100
    few = cost.lloyd(1000, 8, 10, 5, 1)
    assert few[1].flop == 5 * 1000 * 10 * 16, "no more points than there are"
