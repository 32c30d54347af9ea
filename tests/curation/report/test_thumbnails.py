import base64
import io

import numpy as np
import pytest
from PIL import Image

from curation.pocket_web.plants import bomb, svg
from curation.report.thumbnails import SIDE, thumbnail


def decoded(uri: str) -> Image.Image:
    kind, _, data = uri.partition(";base64,")
    assert kind == "data:image/jpeg"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def encoded(image: Image.Image, form: str) -> bytes:
    out = io.BytesIO()
    image.save(out, form)
    return out.getvalue()


@pytest.mark.parametrize(("size", "expected"), [((640, 320), (128, 64)), ((100, 400), (32, 128)), ((20, 10), (20, 10))])
def test_the_longer_side_is_bounded_and_the_shape_kept(size, expected):
    assert SIDE == 128
    assert decoded(thumbnail(encoded(Image.new("RGB", size, "red"), "JPEG"))).size == expected


def test_transparency_lies_on_white():
    small = decoded(thumbnail(encoded(Image.new("RGBA", (40, 40), (0, 0, 0, 0)), "PNG")))
    assert np.asarray(small).min() > 250


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "I;16"])
def test_any_mode_becomes_a_jpeg(mode):
    image = Image.new("RGB", (30, 30), "teal").convert(mode) if mode != "I;16" else Image.new(mode, (30, 30))
    assert decoded(thumbnail(encoded(image, "TIFF"))).mode in ("RGB", "L")


@pytest.mark.parametrize("data", [None, b"", b"<html>", svg(), bomb(), encoded(Image.new("RGB", (90, 90)), "PNG")[:80]])
def test_what_cannot_be_drawn_is_a_placeholder(data):
    assert thumbnail(data).startswith("data:image/svg+xml;base64,")
