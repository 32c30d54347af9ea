import io

import cv2
import numpy as np
import pytest
from PIL import Image

from curation.images.decode import decode
from curation.safety.base import DetectorSpec, boxes_of
from curation.safety.blur import CELLS, MARGIN, ROUNDS, StillFoundError, blurred, reencoded, until_none_found
from curation.safety.loading import load_detector


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)


def changed(before, after):
    return (before != after).any(axis=2)


def test_nothing_outside_of_the_widened_boxes_changes(noise):
    boxes = [(20, 30, 40, 20), (50, 35, 30, 30)]
    touched = np.zeros(noise.shape[:2], bool)
    touched[25:55, 10:70] = True  # a quarter of 40 x 20 more on each side
    touched[27:73, 42:88] = True
    result = blurred(noise, boxes)
    assert result.shape == noise.shape
    assert result.dtype == np.uint8
    assert not changed(noise, result)[~touched].any()
    assert changed(noise, result)[touched].mean() > 0.99


def test_the_picture_given_is_left_alone_and_no_box_changes_nothing(noise):
    before = noise.copy()
    blurred(noise, [(20, 30, 40, 20)])
    assert (noise == before).all()
    assert (blurred(noise, []) == noise).all()


def test_what_stands_in_the_box_is_reduced_to_a_few_means():
    """Two regions with equal means in every cell cannot be told apart afterwards, whatever they show."""
    side = 64
    checks = np.indices((side, side)).sum(axis=0) % 2 * 255
    stripes = np.broadcast_to(np.arange(side)[None] % 2 * 255, (side, side))
    pictures = [np.repeat(p[..., None], 3, axis=2).astype(np.uint8) for p in (checks, stripes)]
    left, right = (blurred(picture, [(0, 0, side, side)]) for picture in pictures)
    assert (left == right).all()


def test_a_region_has_no_detail_left_but_keeps_its_colour(noise):
    noise[..., 0] = noise[..., 0] // 4 + 180  # reddish
    result = blurred(noise, [(20, 20, 80, 80)])[10:105, 10:105].astype(float)
    steps = np.abs(np.diff(result, axis=1)).max()
    assert steps < 255 / (80 / CELLS), "a cell's width cannot hold an edge"
    assert np.abs(result.mean(axis=(0, 1)) - noise[0:120, 0:120].mean(axis=(0, 1))).max() < 6


def test_a_large_region_is_as_smooth_as_a_gaussian_at_full_size_makes_it():
    picture = cv2.resize(np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8), (720, 540))
    means = cv2.resize(picture, (round(4 * 720 / 540), 4), interpolation=cv2.INTER_AREA)
    expected = cv2.GaussianBlur(cv2.resize(means, (720, 540)), (0, 0), 540 / 4 / 2)
    result = blurred(picture, [(0, 0, 720, 540)])
    assert np.ptp(expected) > 60
    assert np.abs(result.astype(int) - expected).max() <= 4
    assert np.abs(np.diff(result.astype(int), axis=0)).max() <= 3


def test_the_work_of_smoothing_does_not_grow_with_the_region(monkeypatch):
    """A kernel that grows with the face, over all its pixels, costs the cube of its side."""
    work, real = [], cv2.GaussianBlur

    def counted(pixels, kernel, sigma, **keys):
        work.append(pixels.size * sigma)
        return real(pixels, kernel, sigma, **keys)

    monkeypatch.setattr(cv2, "GaussianBlur", counted)
    for side in (128, 1024):
        blurred(np.zeros((side, side, 3), np.uint8), [(0, 0, side, side)])
    small, large = work
    assert large == small


@pytest.mark.parametrize(
    "box",
    [(-10, -10, 30, 30), (150, 110, 30, 30), (0, 0, 160, 120), (159, 119, 1, 1), (5, 5, 1, 90), (-50, -50, 400, 400)],
)
def test_boxes_at_and_over_the_edge(noise, box):
    x, y, w, h = box
    inside = np.zeros(noise.shape[:2], bool)
    inside[max(0, y) : y + h, max(0, x) : x + w] = True
    result = blurred(noise, [box])
    assert result.shape == noise.shape
    if min(w, h) > 8:
        assert changed(noise, result)[inside].mean() > 0.99


@pytest.mark.parametrize("box", [(200, 10, 20, 20), (10, -40, 20, 20), (10, 10, 0, 0)])
def test_a_box_that_holds_no_pixel_changes_nothing(noise, box):
    assert (blurred(noise, [box]) == noise).all()


def test_neither_order_nor_repetition_of_boxes_matters(noise):
    boxes = [(20, 30, 40, 20), (50, 35, 30, 30), (45, 10, 60, 60)]
    assert (blurred(noise, boxes) == blurred(noise, [*reversed(boxes), boxes[0]])).all()


def test_rounds_widen_until_nothing_is_found(noise):
    """Somebody who sees anything that is left of a region three times the box must be blurred more than once."""
    box = (60, 40, 30, 30)
    original = noise.copy()

    def find(pixels):
        region = np.s_[25:85, 45:105]  # the box and half of its side around it
        return [] if changed(original, pixels)[region].mean() > 0.98 else [box]

    result, boxes, rounds = until_none_found(noise, [box], find)
    assert rounds == 2
    assert boxes == [box]
    assert find(result) == []
    assert (result == blurred(noise, [box], 2 * MARGIN)).all()


def test_what_is_found_newly_is_blurred_too(noise):
    first, second = (10, 10, 20, 20), (100, 60, 20, 20)

    def find(pixels):
        return [] if changed(noise, pixels)[60:80, 100:120].all() else [second]

    result, boxes, rounds = until_none_found(noise, [first], find)
    assert boxes == [first, second]
    assert rounds == 2
    assert find(result) == []


def test_somebody_who_finds_something_everywhere_is_not_believed_to_be_satisfied(noise):
    seen = []

    def find(pixels):
        seen.append(pixels)
        return [(1, 2, 3, 4)]

    with pytest.raises(StillFoundError, match=f"after {ROUNDS} rounds"):
        until_none_found(noise, [(60, 40, 30, 30)], find)
    assert len(seen) == ROUNDS


def test_without_a_box_nothing_is_done(noise):
    result, boxes, rounds = until_none_found(noise, [], lambda _: pytest.fail("nobody was there to look for"))
    assert result is noise
    assert (boxes, rounds) == ([], 0)


def test_a_real_detector_finds_the_astronaut_and_not_her_blurred_picture():
    data = pytest.importorskip("skimage.data")
    pixels = data.astronaut()
    detector = load_detector(DetectorSpec(adapter="opencv_haar"))

    def find(picture):
        return boxes_of(detector.detect(picture), ["face"])

    boxes = find(pixels)
    assert any(abs(x + w / 2 - 225) < 40 and abs(y + h / 2 - 115) < 40 for x, y, w, h in boxes)
    result, _, rounds = until_none_found(pixels, boxes, find)
    assert rounds >= 1
    assert find(result) == []


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "AVIF", "BMP", "TIFF", "GIF"])
def test_reencoded_pixels_decode_to_themselves_and_carry_nothing_else(format_):
    gradient = np.stack(np.meshgrid(np.arange(96), np.arange(64)), axis=-1).astype(np.uint8) * 2
    pixels = np.concatenate([gradient, gradient[..., :1] // 2 + 60], axis=2)
    data = reencoded(pixels, format_)
    assert data == reencoded(pixels.copy(), format_)
    decoded = decode(data, max_pixels=10**6)
    assert decoded.format == format_
    difference = np.abs(np.asarray(decoded.image).astype(int) - pixels)
    assert difference.mean() < {"GIF": 12, "PNG": 1e-9, "BMP": 1e-9, "TIFF": 1e-9}.get(format_, 2.5)
    with Image.open(io.BytesIO(data)) as image:
        assert not image.getexif() or format_ == "TIFF"  # a TIFF's own tags are all it has
        assert not {"exif", "icc_profile", "xmp", "comment"} & set(image.info)


def test_a_format_that_is_not_written_is_named(noise):
    with pytest.raises(ValueError, match="'SVG' is not written; those that are: JPEG"):
        reencoded(noise, "SVG")
