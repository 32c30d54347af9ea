import numpy as np
import pytest

from curation.neighbours.join import Exact, Spill
from tests.benchmarks import _join_peers as peers
from tests.benchmarks._descriptors import COPY_SHARE, descriptors
from tests.benchmarks.join import THRESHOLD, Truth, exponent, ours, true_edges

NUM = 3000


@pytest.fixture(scope="module")
def vectors():
    return descriptors(NUM, 64, THRESHOLD, seed=0)


@pytest.fixture(scope="module")
def every_edge(vectors):
    return true_edges(vectors, NUM, seed=0)


def test_the_vectors_repeat_and_are_what_is_said_of_them(vectors, every_edge):
    np.testing.assert_array_equal(vectors, descriptors(NUM, 64, THRESHOLD, seed=0))
    np.testing.assert_allclose(np.linalg.norm(vectors.astype(np.float32), axis=1), 1, atol=2e-3)
    with_edge = len(np.unique(every_edge.edges)) / NUM
    assert with_edge > COPY_SHARE  # a copy has its original, all but a few that rounding takes below the threshold


def test_a_sample_knows_all_edges_at_its_vectors(vectors, every_edge):
    sample = true_edges(vectors, 500, seed=0)
    assert 0 < len(sample.edges) < len(every_edge.edges)
    assert every_edge.recall(*sample.edges.T) == pytest.approx(len(sample.edges) / len(every_edge.edges))
    assert sample.recall(*every_edge.edges[:, ::-1].T) == 1


def test_whoever_looks_everywhere_finds_the_same_edges(vectors, every_edge):
    floats, queries = vectors.astype(np.float32), np.arange(NUM)
    setting = peers.Setting(num_lists=8, nprobe=8, recall=1, expected_s=0)
    runs = [
        ours(vectors, Exact()),
        ours(vectors, Spill(num_lists=8, spill=8)),
        peers.flat(floats, THRESHOLD, queries),
        peers.inverted_file(floats, THRESHOLD, queries, setting, seed=0),
    ]
    for run in runs:
        found = np.unique(np.sort(np.stack([run.left, run.right], 1), axis=1), axis=0)
        assert len(np.setxor1d(*(edges @ [NUM, 1] for edges in (found, every_edge.edges)))) <= 1  # FAISS rounds
    few = peers.big_batch(floats, THRESHOLD, queries, setting, seed=0)
    assert every_edge.recall(few.left, few.right) > 0.95  # it stops at 16


def test_tuned_settings_have_the_recall_that_they_promise(vectors, every_edge):
    floats = vectors.astype(np.float32)
    best = peers.tune(floats, THRESHOLD, every_edge.edges, 0.95, seed=0)
    for setting in best.values():
        run = peers.inverted_file(floats, THRESHOLD, np.arange(NUM), setting, seed=0)
        assert setting.recall >= 0.95
        assert every_edge.recall(run.left, run.right) == pytest.approx(setting.recall, abs=2e-3)


def test_exponent():
    assert exponent({1000: 1.0, 10_000: 100.0}) == pytest.approx(2)
    assert exponent({1000: 1.0}) is None
    assert Truth(np.array([[0, 1], [1, 2]]), 3).recall(np.array([1]), np.array([0])) == 0.5
