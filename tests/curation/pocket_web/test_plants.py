import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from curation.pocket_web import plants
from curation.pocket_web.photos import PHOTOGRAPHS, load


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    coffee = next(photograph for photograph in PHOTOGRAPHS if photograph.label == "coffee")
    return Image.fromarray(load(coffee)[100:356, 200:456]).resize((128, 128))


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def likeness(a: Image.Image, b: Image.Image) -> float:
    first, second = (np.asarray(x.convert("L").resize((32, 32)), float).ravel() for x in (a, b))
    return float(np.corrcoef(first, second)[0, 1])


@pytest.mark.parametrize("edit", plants.EDITS)
def test_an_edit_changes_the_bytes_and_keeps_the_picture(picture, edit):
    original, copy = plants.encode(picture), plants.EDITS[edit](picture)
    shown = opened(copy)
    # The overlay hides a fifth of the picture.
    assert likeness(ImageOps.mirror(shown) if edit == "mirror" else shown, picture) > (
        0.5 if edit == "overlay" else 0.7
    )
    assert copy != original
    assert (min(shown.size), len(copy)) < (128, len(original)), "a keep-the-best rule would keep the copy"


def test_edits_change_what_they_say(picture):
    assert opened(plants.EDITS["resize"](picture)).size == (96, 96)
    assert opened(plants.EDITS["crop"](picture)).size == (112, 112)
    assert opened(plants.EDITS["grey"](picture)).mode == "L"
    assert likeness(opened(plants.EDITS["mirror"](picture)), picture) < 0.7


def test_a_truncated_file_opens_but_does_not_load(picture):
    for form in ("jpg", "png"):
        image = Image.open(io.BytesIO(plants.truncated(plants.encode(picture, form))))
        with pytest.raises(OSError, match="truncated"):
            image.load()


def test_the_bomb_is_small_on_disk_and_huge_in_its_header():
    data = plants.bomb()
    assert len(data) < 10_000
    assert int.from_bytes(data[16:20]) * int.from_bytes(data[20:24]) == 50_000**2
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(data))


@pytest.mark.parametrize("data", [plants.noise(4000, 1), plants.svg(), plants.error_page()])
def test_what_is_no_picture_does_not_open(data):
    with pytest.raises(Image.UnidentifiedImageError):
        Image.open(io.BytesIO(data))


def test_icons_are_small(picture):
    assert opened(plants.icon(picture, 16)).size == (16, 16)
    assert opened(plants.tracking_pixel()).size == (1, 1)


def test_unusual_encodings_show_the_picture(picture):
    turned = opened(plants.turned(picture))
    assert likeness(ImageOps.exif_transpose(turned), picture) > 0.95 > likeness(turned, picture)
    assert opened(plants.cmyk(picture)).mode == "CMYK"
    assert likeness(opened(plants.cmyk(picture)).convert("RGB"), picture) > 0.95
    deep = np.asarray(opened(plants.grey16(picture)))
    assert deep.dtype == np.uint16
    assert likeness(Image.fromarray((deep >> 8).astype(np.uint8)), picture) > 0.95


def test_animations_move_and_banners_are_long(picture):
    for form in ("GIF", "WEBP"):
        assert Image.open(io.BytesIO(plants.animation(picture, form))).n_frames == 3
    assert opened(plants.banner(picture)).size == (640, 80)
    assert opened(plants.banner(picture, upright=True)).size == (80, 640)


def test_next_to_nothing_is_shown():
    assert len(opened(plants.solid()).getcolors()) == 1
    white = np.asarray(opened(plants.placeholder()).convert("L")) == 255
    assert 0.98 < white.mean() < 1
