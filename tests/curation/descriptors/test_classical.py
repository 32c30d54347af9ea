import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from curation.descriptors.classical_copy import ClassicalCopy
from curation.descriptors.classical_scene import ClassicalScene

THRESHOLD = 0.5  # of classical_copy


def _carried(name):
    import skimage.data

    return Image.open(next(p for p in _files(skimage.data.__file__) if p.stem == name)).convert("RGB")


def _files(module):
    from pathlib import Path

    return sorted(Path(module).parent.iterdir())


@pytest.fixture(scope="module")
def tiles():
    """Distinct 128-pixel tiles of carried photographs, by photograph."""
    found = {}
    for name in ("astronaut", "brick", "gravel", "coffee", "motorcycle_left"):
        photo = _carried(name)
        boxes = [(x, y, x + 128, y + 128) for y in (0, 128) for x in (0, 128, 256)]
        found[name] = [photo.crop(box) for box in boxes]
    return found


def _embed(embedder, pictures):
    return embedder.embed(np.stack([embedder.preprocess(p) for p in pictures]))


def _jpeg(picture, quality=40):
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def _caption(picture):
    picture = picture.copy()
    ImageDraw.Draw(picture).rectangle((0, 112, 128, 128), fill=(20, 20, 20))
    return picture


EDITS = {
    "jpeg": _jpeg,
    "resize": lambda p: p.resize((80, 80), Image.Resampling.BICUBIC),
    "bright": lambda p: ImageEnhance.Brightness(p).enhance(1.15),
    "tint": lambda p: Image.merge("RGB", (p.getchannel(0), p.getchannel(1), p.getchannel(2).point(lambda v: v * 0.8))),
    "grey": lambda p: p.convert("L").convert("RGB"),
    "mirror": ImageOps.mirror,
}


@pytest.mark.parametrize("edit", EDITS)
def test_copy_finds_edited_tiles(tiles, edit):
    embedder = ClassicalCopy()
    originals = [t for name in ("astronaut", "gravel", "motorcycle_left") for t in tiles[name][::2]]
    similarity = (_embed(embedder, originals) * _embed(embedder, [EDITS[edit](t) for t in originals])).sum(1)
    assert (similarity > THRESHOLD).sum() >= len(originals) - 1


def test_copy_separates_tiles_of_one_photograph(tiles):
    vectors = _embed(ClassicalCopy(), [t for group in tiles.values() for t in group])
    similarity = (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]
    assert (similarity > THRESHOLD).sum() <= 1
    assert abs(np.median(similarity)) < 0.1


def test_mirror_images_have_nearly_one_vector(tiles):
    pictures = tiles["motorcycle_left"]
    similarity = _embed(ClassicalCopy(), pictures) * _embed(ClassicalCopy(), [ImageOps.mirror(p) for p in pictures])
    assert similarity.sum(1).min() > 0.6


def test_scene_groups_tiles_by_photograph(tiles):
    vectors = _embed(ClassicalScene(), [t for group in tiles.values() for t in group])
    label = np.repeat(np.arange(len(tiles)), 6)
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -1)
    assert (label[similarity.argmax(1)] == label).mean() > 0.8


@pytest.mark.parametrize("embedder", [ClassicalCopy(), ClassicalScene()], ids=["copy", "scene"])
def test_bits_do_not_depend_on_the_batch(embedder, tiles):
    inputs = np.stack([embedder.preprocess(t) for t in tiles["coffee"]])
    whole = embedder.embed(inputs)
    assert whole.dtype == np.float32
    assert whole.shape == (6, embedder.dim)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-6)
    for rows in ([0], [5, 0], [3, 3, 1]):
        assert embedder.embed(inputs[rows]).tobytes() == whole[rows].tobytes()
    assert embedder.preprocess(tiles["coffee"][2]).tobytes() == inputs[2].tobytes()


@pytest.mark.parametrize("embedder", [ClassicalCopy(), ClassicalScene()], ids=["copy", "scene"])
@pytest.mark.parametrize("size", [(1, 1), (3, 500), (700, 9), (64, 64)])
def test_odd_pictures_give_finite_vectors(embedder, size):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), np.uint8))
    assert np.isfinite(_embed(embedder, [noise, Image.new("RGB", size)])).all()


def test_flat_pictures_are_copies_of_nothing():
    vectors = _embed(ClassicalCopy(), [Image.new("RGB", (64, 64), c) for c in ("white", "white", "red")])
    assert not (vectors @ vectors.T).any()
