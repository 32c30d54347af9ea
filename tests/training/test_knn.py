import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from training import knn


def unit(rows: np.ndarray) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(rows), dim=1)


@pytest.fixture
def problem():
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(5, 16))
    labels, answers = rng.integers(0, 5, 300), rng.integers(0, 5, 90)
    train = unit(centres[labels] + rng.normal(size=(300, 16)))
    test = unit(centres[answers] + rng.normal(size=(90, 16)))
    return train, torch.from_numpy(labels), test


@pytest.mark.parametrize("chunk", [(1024, 65_536), (7, 13)])
def test_votes_are_those_of_sklearn_with_the_same_weights(problem, chunk, monkeypatch):
    train, labels, test = problem
    monkeypatch.setattr(knn, "TEST_CHUNK", chunk[0])
    monkeypatch.setattr(knn, "TRAIN_CHUNK", chunk[1])
    answer = knn.votes(train, labels, test, 5, [10, 20, 100], 0.07)
    for k, table in answer.items():
        oracle = KNeighborsClassifier(
            k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
        ).fit(train.numpy(), labels.numpy())
        shares = (table / table.sum(dim=1, keepdim=True)).numpy()
        np.testing.assert_allclose(shares, oracle.predict_proba(test.numpy()), atol=1e-6)


def test_the_largest_k_holds_all_the_weight_and_smaller_ones_their_share(problem):
    train, labels, test = problem
    answer = knn.votes(train, labels, test, 5, [1, 20], 0.07)
    np.testing.assert_allclose(answer[20].sum(dim=1), 1.0, atol=1e-6)
    assert (answer[1].sum(dim=1) < 1).all()


def test_nearest_is_a_full_sort_whatever_the_chunks(problem, monkeypatch):
    train, _, test = problem
    monkeypatch.setattr(knn, "TRAIN_CHUNK", 11)
    similarities, rows = knn.nearest(train, test, 25)
    expected = (test @ train.T).sort(dim=1, descending=True)
    np.testing.assert_allclose(similarities, expected.values[:, :25], atol=1e-6)
    assert torch.equal(rows, expected.indices[:, :25])
