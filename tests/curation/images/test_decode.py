import contextlib
import io
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from curation.images.decode import DecodeError, decode, squared
from curation.schema import Reason

PIXELS = 10**6


def _photo(width=64, height=48):
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 255 // width, y * 255 // height, 255 - x * 255 // width], -1).astype(np.uint8))


def _bytes(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def _reason(data, max_pixels=PIXELS):
    with pytest.raises(DecodeError) as error:
        decode(data, max_pixels)
    return error.value.reason


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_formats(format):
    decoded = decode(_bytes(_photo(), format), PIXELS)
    assert (decoded.format, decoded.width, decoded.height, decoded.image.mode) == (format, 64, 48, "RGB")
    difference = np.asarray(decoded.image, float) - np.asarray(_photo(), float)
    assert np.abs(difference).mean() < 12


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_cut_anywhere_is_truncated_or_whole(format):
    data = _bytes(_photo(), format)
    reasons = set()
    for cut in range(32, len(data) - 40, 61):
        try:
            decode(data[:cut], PIXELS)
        except DecodeError as error:
            reasons.add(error.reason)
    assert reasons == {Reason.TRUNCATED}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "TIFF", "PNG"])
def test_orientation(orientation, format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = Image.new("RGB", (64, 32))
    upright.paste((255, 255, 255), (0, 0, 16, 8))  # a mark in the upper left corner
    stored = {
        1: lambda i: i,
        2: lambda i: i.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: lambda i: i.transpose(Image.Transpose.ROTATE_180),
        4: lambda i: i.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: lambda i: i.transpose(Image.Transpose.TRANSPOSE),
        6: lambda i: i.transpose(Image.Transpose.ROTATE_90),
        7: lambda i: i.transpose(Image.Transpose.TRANSVERSE),
        8: lambda i: i.transpose(Image.Transpose.ROTATE_270),
    }[orientation](upright)
    decoded = decode(_bytes(stored, format, exif=exif), PIXELS)
    assert (decoded.width, decoded.height) == decoded.image.size == (64, 32)
    pixels = np.asarray(decoded.image.convert("L"))
    assert pixels[:7, :15].min() > 200
    assert pixels[10:].max() < 50


def test_modes():
    grey16 = Image.fromarray(np.array([[0, 128 << 8], [255 << 8, 65535]], np.uint16))
    assert np.asarray(decode(_bytes(grey16, "PNG"), PIXELS).image)[..., 0].tolist() == [[0, 128], [255, 255]]
    real = Image.fromarray(np.array([[-1.0, 0.0], [np.nan, 1.0]], np.float32))
    assert np.asarray(decode(_bytes(real, "TIFF"), PIXELS).image)[..., 0].tolist() == [[0, 128], [128, 255]]
    cmyk = _bytes(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")
    assert decode(cmyk, PIXELS).image.getpixel((4, 4))[0] > 200
    glass = _bytes(Image.new("RGBA", (8, 8), (255, 0, 0, 0)), "PNG")
    assert decode(glass, PIXELS).image.getpixel((4, 4)) == (255, 255, 255)
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([10, 20, 30])
    assert decode(_bytes(palette, "PNG"), PIXELS).image.getpixel((4, 4)) == (10, 20, 30)
    assert decode(_bytes(palette, "GIF", transparency=0), PIXELS).image.getpixel((4, 4)) == (255, 255, 255)


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for format in ("GIF", "WEBP"):
        data = _bytes(frames[0], format, save_all=True, append_images=frames[1:])
        red, _, blue = decode(data, PIXELS).image.getpixel((4, 4))
        assert red > 200 > 50 > blue


def _square_differences(data, side=32):
    square, whole = decode(data, PIXELS, side), decode(data, PIXELS)
    assert square.image.size == (side, side)
    assert (square.width, square.height) == (whole.width, whole.height) == whole.image.size
    return np.asarray(square.image, float) - np.asarray(squared(whole.image, side), float)


@pytest.mark.parametrize("size", [(800, 400), (801, 419), (299, 307), (65, 66), (20, 30)])
@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_a_square_from_a_reduced_jpeg_shows_the_same_as_one_from_the_whole(size, orientation):
    """Reduced sizes are rounded up; a square of all of the reduced picture would be shifted by a part of a pixel."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _bytes(_photo(*size), "JPEG", exif=exif, quality=95)
    assert np.abs(_square_differences(data)).max() < 4


def test_a_square_is_no_draft_of_other_formats():
    for format in ("PNG", "WEBP", "TIFF"):
        assert np.abs(_square_differences(_bytes(_photo(300, 200), format))).max() == 0


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_a_reduced_jpeg_is_read_to_its_end(options):
    """Decoding at a reduced scale parses every byte, so that whatever the whole picture lacks is found missing."""
    rng = np.random.default_rng(0)
    data = _bytes(Image.fromarray(rng.integers(0, 255, (256, 256, 3)).astype(np.uint8)), "JPEG", **options)
    assert decode(data, PIXELS, 16).image.size == (16, 16)
    for cut in [*range(700, len(data), 997), *range(len(data) - 40, len(data) - 2)]:
        for side in (16, None):
            with pytest.raises(DecodeError) as error:
                decode(data[:cut], PIXELS, side)
            assert error.value.reason == Reason.TRUNCATED


def _declaring(width, height):
    """A PNG of a few hundred bytes that says it is larger."""
    data = bytearray(_bytes(_photo(), "PNG"))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(("width", "height"), [(100_000, 100_000), (20_000, 10_000), (20_000, 20_001)])
def test_declared_size_is_checked_before_pixels_are_read(width, height):
    with pytest.raises(DecodeError, match=f"^declares {width} x {height} pixels, more than 100000000$") as caught:
        decode(_declaring(width, height), max_pixels=100_000_000)
    assert caught.value.reason == Reason.TOO_MANY_PIXELS


def test_max_pixels_is_the_largest_size_allowed():
    assert _reason(_bytes(_photo(), "JPEG"), max_pixels=64 * 48 - 1) == Reason.TOO_MANY_PIXELS
    assert decode(_bytes(_photo(), "JPEG"), max_pixels=64 * 48).width == 64


def test_pillows_own_limit_does_not_decide_and_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow refuses from twice as many
    photos = [_bytes(_photo(), format) for format in ("PNG", "JPEG", "GIF", "TIFF", "WEBP")] * 20
    with ThreadPoolExecutor(8) as pool:
        assert {decoded.width for decoded in pool.map(lambda data: decode(data, 64 * 48), photos)} == {64}
    assert Image.MAX_IMAGE_PIXELS == 1000


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.NOT_AN_IMAGE),
        (b"<!doctype html><html><body><svg></svg></body></html>", Reason.NOT_AN_IMAGE),
        (b"BM is how this text begins, and it goes on for a while", Reason.NOT_AN_IMAGE),
        (b'\n<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', Reason.UNSUPPORTED_FORMAT),
        (b"P6 2 2 255 " + bytes(12), Reason.UNSUPPORTED_FORMAT),
        (b"\x00\x00\x00\x18ftypheic" + bytes(40), Reason.UNSUPPORTED_FORMAT),
        (b"\xff\xd8\xff\xe0", Reason.TRUNCATED),
    ],
)
def test_refused(data, reason):
    assert _reason(data) == reason


def test_noise_never_escapes():
    rng = np.random.default_rng(0)
    whole = _bytes(_photo(), "PNG"), _bytes(_photo(), "JPEG"), _bytes(_photo(), "TIFF"), _bytes(_photo(), "GIF")
    for _ in range(300):
        data = bytearray(whole[rng.integers(4)])
        for position in rng.integers(0, len(data), 8):
            data[position] = rng.integers(256)
        with contextlib.suppress(DecodeError):
            decode(bytes(data), PIXELS)


@pytest.mark.realdata
def test_real_files(shared_data):
    folder = shared_data / "dedup_cases" / "formats_images"
    suffix_lies = [decode((folder / f"ukbench09380.{e}").read_bytes(), PIXELS) for e in ("bmp", "jpeg", "png", "svg")]
    assert {d.format for d in suffix_lies} == {"JPEG"}
    assert _reason((folder / "marbles.pbm").read_bytes()) == Reason.UNSUPPORTED_FORMAT
