import io

import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA

from training.watch.pictures import components, crops_picture, masked, patch_colours, patches_picture

GRID = 8


def blobs(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [3, 64, 16] of pictures with a thing in the middle whose left and right differ; where it is."""
    rng = np.random.default_rng(seed)
    thing = np.zeros((3, GRID, GRID), dtype=bool)
    thing[:, 2:6, 2:6] = True
    tokens = rng.normal(0, 0.05, (3, GRID, GRID, 16))
    tokens[thing, 0] += 5
    tokens[:, :, :4, 1] += thing[:, :, :4]
    return tokens.reshape(3, -1, 16), thing.reshape(3, -1)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_thing_in_the_middle_is_the_foreground_and_has_colours(sign):
    tokens, thing = blobs()
    first, colours = patch_colours(sign * tokens)
    assert np.array_equal(first > 0.5, thing)
    assert (colours[~thing] == 0).all()
    columns = np.tile(np.arange(GRID), (3, GRID))
    left, right = colours[thing & (columns < 4)].mean(0), colours[thing & (columns >= 4)].mean(0)
    assert np.abs(left - right).max() > 0.5


def test_components_are_those_of_sklearn():
    rows = np.random.default_rng(1).normal(size=(200, 9)) * np.arange(1, 10)
    ours, theirs = components(rows, 3), PCA(3).fit_transform(rows)
    for i in range(3):
        assert abs(np.corrcoef(ours[:, i], theirs[:, i])[0, 1]) == pytest.approx(1)
    np.testing.assert_allclose(ours.std(0), theirs.std(0))


def test_tokens_that_are_all_alike_make_a_picture_too():
    first, colours = patch_colours(np.ones((2, GRID**2, 16)))
    assert np.isfinite(first).all()
    assert np.isfinite(colours).all()


def test_exactly_the_masked_patches_are_tinted():
    image = np.random.default_rng(2).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    mask = np.zeros(16, dtype=bool)
    mask[[0, 6]] = True  # the first patch, and the third of the second row
    changed = (masked(image, mask) != image).any(-1)
    expected = np.zeros((32, 32), dtype=bool)
    expected[:8, :8] = expected[8:16, 16:24] = True
    assert not changed[~expected].any()
    assert changed[expected].mean() > 0.95


def test_pictures_are_pngs_as_wide_as_what_is_in_them():
    rng = np.random.default_rng(3)
    pixels = [rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8) for n, side in ((12, 32), (18, 16), (0, 16))]
    masks = rng.random((12, 16)) < 0.3
    sizes = []
    for local_crops in pixels[1:]:
        with Image.open(io.BytesIO(crops_picture(pixels[0], local_crops, masks, 7))) as picture:
            sizes.append(picture.size)
    assert sizes[0][0] > 2 * sizes[1][0]  # five columns, two columns
    assert sizes[0][1] == sizes[1][1]
    with Image.open(io.BytesIO(patches_picture(pixels[0][:3], blobs()[0], 7))) as picture:
        assert min(picture.size) > 300
