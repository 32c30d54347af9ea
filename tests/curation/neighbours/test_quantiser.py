import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from curation.neighbours import quantiser
from curation.neighbours.quantiser import Quantiser
from tests.curation.neighbours.planted import planted

VECTORS = planted(1500, 40, seed=5)
QUANTISER = Quantiser.train(VECTORS, 30, seed=0)


@given(st.integers(0, 1400), st.integers(1, 100), st.integers(1, 30))
def test_nearest_lists_depend_on_the_vector_alone(start, size, m):
    part = slice(start, start + size)
    np.testing.assert_array_equal(QUANTISER.nearest(VECTORS[part], m), QUANTISER.nearest(VECTORS, m)[part])


def test_nearest_lists_are_those_of_the_largest_inner_product():
    lists = QUANTISER.nearest(VECTORS, 3)
    assert (np.diff(lists) > 0).all()
    products = VECTORS @ QUANTISER.centroids.T / np.linalg.norm(QUANTISER.centroids[0].astype(float))
    third = -np.sort(-products, axis=1)[:, 2]
    assert (np.take_along_axis(products, lists, 1).min(axis=1) > third - 0.005).all()


def test_training_repeats_and_survives_its_file():
    again = Quantiser.train(VECTORS, 30, seed=0)
    assert again.digest == QUANTISER.digest == Quantiser.from_bytes(again.to_bytes()).digest
    assert Quantiser.train(VECTORS, 30, seed=1).digest != again.digest


def test_one_list_needs_no_training():
    assert (Quantiser.train(VECTORS, 1, seed=0).nearest(VECTORS, 1) == 0).all()


def test_refuses_what_cannot_be():
    with pytest.raises(ValueError, match="num_lists 1501"):
        Quantiser.train(VECTORS, 1501, seed=0)
    with pytest.raises(ValueError, match="31 nearest"):
        QUANTISER.nearest(VECTORS, 31)
    with pytest.raises(ValueError, match="not a quantiser"):
        Quantiser.from_bytes(b"no array at all")


@pytest.mark.parametrize("dim", [40, 700])
def test_lists_are_the_same_in_either_precision(dim, monkeypatch):
    vectors, told = planted(700, dim, seed=5), []
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(quantiser, "product_dtype", lambda _, dtype=dtype: dtype)
        trained = Quantiser.train(vectors, 80, seed=0)
        told.append((trained.digest, trained.ranked(vectors, 5).tobytes()))
    assert told[0] == told[1]


@pytest.mark.parametrize("seed", range(4))
def test_zero_vectors_start_no_list_and_change_no_other(seed):
    vectors = planted(1500, 40, seed=5)
    vectors[::10] = 0
    trained = Quantiser.train(vectors, 100, seed)
    assert trained.centroids.any(axis=1).all()
    sizes = np.bincount(trained.nearest(vectors[vectors.any(axis=1)], 1)[:, 0], minlength=100)
    assert sizes.max() < 120
    with pytest.raises(ValueError, match="num_lists 10: of 20 vectors trained on 9 are not zero"):
        Quantiser.train(np.concatenate([vectors[1:10], np.zeros((11, 40), np.float32)]), 10, seed)


def test_what_is_not_finite_is_named():
    vectors = VECTORS.copy()
    vectors[1400, 3] = np.nan
    for use in (lambda: Quantiser.train(vectors, 30, seed=0), lambda: QUANTISER.nearest(vectors, 2)):
        with pytest.raises(ValueError, match="row 1400 of the vectors is not finite"):
            use()
