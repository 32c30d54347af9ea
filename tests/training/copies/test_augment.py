import numpy as np
import pytest

from training.copies import augment
from training.copies.config import Edits

EDITS = Edits(size=48, least_area=0.2, easy=0.5, mild=0.5, tiles=0.3, mixed=0.5)


def _picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(0, 256, (height // 8, width // 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)


@pytest.mark.parametrize("shape", [(64, 64), (200, 120), (96, 320)])
def test_a_strong_copy_keeps_the_form_for_any_draw(shape):
    for seed in range(60):
        view = augment.strong(_picture(*shape), _picture(64, 64, 1), EDITS, 1.0, np.random.default_rng(seed))
        assert (view.shape, view.dtype) == ((48, 48, 3), np.uint8)


def test_equal_seeds_give_equal_views_and_others_do_not():
    sources = [_picture(96, 96, i) for i in range(4)]
    draw = [augment.views(sources, sources, EDITS, 1.0, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(draw[0][0], draw[1][0])
    assert np.array_equal(draw[0][1], draw[1][1])
    assert not np.array_equal(draw[0][0], draw[2][0])


def test_contents_name_the_sources_that_are_in_a_view():
    # one colour a source and no recolouring: which colours stand in a view says what it holds
    plain = Edits(size=32, least_area=1.0, easy=0.5, mild=0.0, tiles=0.0, mixed=1.0)
    colours = [(250, 10, 10), (10, 250, 10), (10, 10, 250), (250, 250, 10)]
    sources = [np.full((64, 64, 3), colour, np.uint8) for colour in colours]
    views, contents = augment.views(sources, sources, plain, 0.0, np.random.default_rng(0))
    assert contents.tolist() == [[i, i] for i in range(4)] * 2  # strength 0: nothing is mixed
    mixed = augment.mix(views[0], views[1], np.random.default_rng(3))
    assert {tuple(pixel) for pixel in mixed.reshape(-1, 3).tolist()} != {colours[0]}
    assert views[5].reshape(-1, 3).tolist() == [list(colours[1])] * (32 * 32)


def test_halves_share_no_pixel_and_lose_none():
    for shape in ((60, 100), (100, 60)):
        picture = np.arange(shape[0] * shape[1]).reshape(*shape, 1)
        parts = augment.halves(picture, np.random.default_rng(0))
        assert sorted(np.concatenate([part.ravel() for part in parts]).tolist()) == picture.ravel().tolist()


def test_a_negative_is_among_the_recolourings():
    white = np.full((8, 8, 3), 255, np.uint8)
    darkest = min(augment.recolour(white, np.random.default_rng(seed)).mean() for seed in range(200))
    assert darkest < 60
