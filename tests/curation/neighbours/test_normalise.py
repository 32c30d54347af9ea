import numpy as np
import pytest

from curation.neighbours import normalise


def _vectors(num, dim=24, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((num, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_a_bias_is_the_mean_of_the_nearest_in_the_background():
    vectors, background = _vectors(30), _vectors(200, seed=1)
    exact = np.sort(vectors.astype(np.float64) @ background.T.astype(np.float64), axis=1)[:, ::-1]
    np.testing.assert_allclose(normalise.bias(vectors, background, 5), exact[:, :5].mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(normalise.bias(vectors, background, 5, 0.5), exact[:, :5].mean(axis=1) / 2, atol=1e-6)


def test_a_bias_depends_on_its_vector_alone_and_is_never_negative():
    vectors, background = _vectors(40), _vectors(100, seed=1)
    whole = normalise.bias(vectors, background)
    parts = np.concatenate([normalise.bias(vectors[i : i + 7], background) for i in range(0, 40, 7)])
    assert whole.tobytes() == parts.tobytes()
    away = -background.mean(axis=0, keepdims=True)
    apart = np.repeat(background[:1], 5, axis=0)
    assert normalise.bias(-apart[:1], apart).tolist() == [0]
    assert (normalise.bias(away, background) >= 0).all()


def test_no_pair_rises_and_the_order_within_one_does_not_matter():
    left, right = (
        normalise.bias(_vectors(50), _vectors(90, seed=1)),
        normalise.bias(_vectors(50, seed=2), _vectors(90, seed=1)),
    )
    similarities = np.random.default_rng(0).random(50).astype(np.float32)
    both = normalise.normalised(similarities, left, right)
    assert (both <= similarities).all()
    assert both.tobytes() == normalise.normalised(similarities, right, left).tobytes()
    assert (normalise.normalised(similarities, left) == similarities - left).all()


def test_what_resembles_everything_no_longer_beats_a_copy():
    """Two queries of one score: a picture in a crowd of the background, and a copy that stands alone."""
    rng = np.random.default_rng(0)
    crowd = _vectors(1) + 0.3 * _vectors(60, seed=3)
    crowd /= np.linalg.norm(crowd, axis=1, keepdims=True)
    common, original = crowd[:1], _vectors(1, seed=9)
    copy = original + 0.9 * _vectors(1, seed=10)
    copy /= np.linalg.norm(copy)
    raw = np.array([(common @ crowd[1]).item(), (copy @ original.T).item()], np.float32)
    assert raw[0] > raw[1]
    bias = normalise.bias(
        np.concatenate([common, copy]), np.concatenate([crowd[2:], _vectors(100, seed=rng.integers(99))])
    )
    better = normalise.normalised(raw, bias)
    assert better[1] > better[0]


def test_a_background_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="background of 2 pictures has no 3 neighbours"):
        normalise.bias(_vectors(4), _vectors(2))
