"""The detector of these tests finds red and black squares: it is exact, so what it still sees was not hidden."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from curation.images.decode import decode
from curation.release import blurring
from curation.release.blurring import FaceRemainsError, Lookout, LookoutSpec, hide
from curation.release.safety import DetectorRecord
from curation.safety.base import Detection

SQUARE = (40, 24, 16, 16)


class Chequers:
    """Finds the box around chequers of red and black."""

    name, version, licence, digest, labels = "chequers", "1", "none", "a" * 64, ("face",)

    def detect(self, pixels):
        red = pixels[..., 0].astype(int)
        a, b, c = red[:, :-8], red[:, 4:-4], red[:, 8:]
        by_turns = (np.abs(a - b) > 160) & (np.abs(b - c) > 160) & (np.abs(a - c) < 60)
        if not by_turns.any():
            return []
        rows, columns = np.flatnonzero(by_turns.any(axis=1)), np.flatnonzero(by_turns.any(axis=0))
        x, y = int(columns[0]), int(rows[0])
        return [Detection("face", 0.9, (x, y, int(columns[-1]) + 9 - x, int(rows[-1]) + 1 - y))]


class Everywhere(Chequers):
    """Finds somebody in any picture."""

    def detect(self, _):
        return [Detection("face", 0.25, (1, 2, 30, 30)), Detection("face", 0.5, (1, 2, 30, 30))]


class Doubtful(Chequers):
    """Finds somebody in one corner at the second look only."""

    def __init__(self):
        self.looks = 0

    def detect(self, _):
        self.looks += 1
        return [Detection("face", 0.5, (0, 0, 12, 12))] if self.looks == 1 else []


RECORD = DetectorRecord(name="chequers", version="1", licence="none", digest="a" * 64, labels=["face"])
SPEC = LookoutSpec(detectors={"chequers": {"adapter": "opencv_haar"}}, records={"chequers": RECORD}, labels=["face"])


def judge(monkeypatch, detector):
    monkeypatch.setattr(blurring, "load_detector", lambda _: detector)
    return Lookout(SPEC)


@pytest.fixture
def exact(monkeypatch):
    return judge(monkeypatch, Chequers())


def chequer(image, box):
    """Draw what the detector finds: squares of 4 pixels, red and black by turns."""
    left, top, width, height = box
    for y in range(top, top + height, 4):
        for x in range(left, left + width, 4):
            colour = (255, 0, 0, 255) if (x - left + y - top) // 4 % 2 else (0, 0, 0, 255)
            ImageDraw.Draw(image).rectangle((x, y, x + 3, y + 3), fill=colour[: len(image.getbands())])
    return image


def scene(mode="RGB", box=SQUARE, size=(96, 80)):
    """A smooth picture with chequers in one place."""
    y, x = np.mgrid[: size[1], : size[0]]
    return chequer(Image.fromarray(np.stack([x, y + 40, 255 - x], axis=2).astype(np.uint8)), box).convert(mode)


def encoded(image, format_="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def pixels(data):
    return np.asarray(decode(data, 10**6).image)


def far_from(box, shape, margin=24):
    """Pixels that no blur of the box reaches."""
    mask = np.ones(shape[:2], bool)
    x, y, width, height = box
    mask[max(0, y - margin) : y + height + margin, max(0, x - margin) : x + width + margin] = False
    return mask


@pytest.mark.parametrize(
    ("format_", "mode", "box"),
    [
        ("PNG", "RGB", SQUARE),
        ("PNG", "RGBA", SQUARE),
        ("PNG", "P", SQUARE),
        ("JPEG", "RGB", SQUARE),
        ("JPEG", "CMYK", SQUARE),
        ("WEBP", "RGB", SQUARE),
        ("GIF", "P", SQUARE),
        ("BMP", "RGB", SQUARE),
        ("TIFF", "RGB", SQUARE),
        ("AVIF", "RGB", SQUARE),
        ("PNG", "RGB", (0, 0, 16, 16)),
        ("PNG", "RGB", (80, 64, 16, 16)),
        ("PNG", "RGB", (-8, 72, 16, 16)),
        ("PNG", "RGB", (0, 0, 96, 80)),
        ("JPEG", "RGB", (76, 30, 24, 20)),
    ],
)
def test_what_was_found_is_gone_and_the_rest_is_not(exact, format_, mode, box):
    data = encoded(scene(mode, box), format_)
    before = pixels(data)
    assert exact.look(before)
    hidden = hide(data, [box], exact)
    after = pixels(hidden.data)
    assert after.shape == before.shape
    assert exact.look(after) == []
    outside = far_from(box, after.shape)
    assert np.abs(after.astype(int) - before)[outside].max(initial=0) <= 12
    assert decode(hidden.data, 10**6).format == hidden.format
    assert hide(data, [box], exact) == hidden


def test_boxes_are_in_upright_pixels_and_nothing_but_the_picture_is_kept(exact):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn
    exif[0x010F] = "camera"
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)  # GPS
    lying = scene().transpose(Image.Transpose.ROTATE_90)
    data = encoded(lying, "JPEG", exif=exif, quality=95, comment=b"who this is", icc_profile=b"profile")
    assert b"camera" in data
    upright = pixels(data)
    assert upright.shape == (80, 96, 3)
    (found,) = exact.look(upright)
    hidden = hide(data, [found.box], exact)
    released = Image.open(io.BytesIO(hidden.data))
    assert released.size == (96, 80)
    assert dict(released.getexif()) == {}
    assert set(released.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    assert b"camera" not in hidden.data
    assert b"who this is" not in hidden.data
    assert np.abs(pixels(hidden.data).astype(int) - upright)[far_from(found.box, upright.shape)].max() <= 12


def test_pixels_under_full_transparency_are_not_released(exact):
    layer = scene("RGBA")
    secret = chequer(Image.new("RGBA", layer.size), (60, 50, 16, 16))
    secret.putalpha(0)
    layer.paste(secret.crop((60, 50, 76, 66)), (60, 50))
    data = encoded(layer)
    assert exact.look(np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))[45:, 56:]), "there, but nobody sees it"
    hidden = hide(data, [SQUARE], exact)
    assert exact.look(np.asarray(Image.open(io.BytesIO(hidden.data)).convert("RGB"))) == []


def test_overlapping_boxes(exact):
    boxes = [(40, 24, 10, 16), (44, 24, 12, 16), (44, 24, 12, 16)]
    hidden = hide(encoded(scene()), boxes, exact)
    assert hidden.boxes == boxes
    assert exact.look(pixels(hidden.data)) == []


def test_what_the_screening_missed_is_blurred_in_a_further_round(exact):
    missed = (4, 56, 16, 16)
    hidden = hide(encoded(chequer(scene(), missed)), [SQUARE], exact)
    first, (x, y, width, height) = hidden.boxes
    assert first == SQUARE
    assert max(abs(x - missed[0]), abs(y - missed[1])) <= 8 >= max(width, height) - 16
    assert exact.look(pixels(hidden.data)) == []


def test_a_box_that_a_blur_brings_up_is_blurred_too(monkeypatch):
    assert hide(encoded(scene()), [SQUARE], judge(monkeypatch, Doubtful())).boxes == [SQUARE, (0, 0, 12, 12)]


def test_where_somebody_is_found_to_the_end_nothing_is_released(monkeypatch):
    with pytest.raises(FaceRemainsError, match="found after") as error:
        hide(encoded(scene()), [SQUARE], judge(monkeypatch, Everywhere()))
    assert error.value.score == 0.5
    assert error.value.evidence == {"face": [[1, 2, 30, 30, 0.25], [1, 2, 30, 30, 0.5]]}


def test_a_detector_that_is_not_the_one_on_record_is_refused(monkeypatch):
    monkeypatch.setattr(Chequers, "digest", "b" * 64)
    monkeypatch.setattr(blurring, "load_detector", lambda _: Chequers())
    with pytest.raises(ValueError, match=f"'chequers' is .* {'b' * 64}, but .* {'a' * 64}.* put that one back"):
        Lookout(SPEC)
    assert not Lookout(SPEC.model_copy(update={"labels": ["licence plate"]})), "one that is not needed is not loaded"
