import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from training.config import Pixels
from training.data.picture import open_picture

RNG = np.random.default_rng(0)
SMOOTH = np.asarray(Image.fromarray(RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((160, 120), 3))


def encoded(image: Image.Image, format_: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def pixels_of(data: bytes, channels: int = 3, reduction: int = 1, **pixels) -> np.ndarray:
    picture = open_picture(data, channels, Pixels(**pixels))
    found = picture.decode(reduction)
    assert found.dtype == np.uint8
    assert found.shape == (-(-picture.height // reduction), -(-picture.width // reduction), channels)
    assert found.flags.c_contiguous
    assert found.flags.writeable
    return found


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_upright(format_, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(SMOOTH), format_, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert expected.shape == ((120, 160, 3) if orientation < 5 else (160, 120, 3))
    assert np.array_equal(pixels_of(data), expected)


def test_a_jpeg_is_reduced_while_it_is_decoded():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(SMOOTH), "JPEG", quality=95, exif=exif)
    picture = open_picture(data, 3, Pixels())
    assert [picture.can_reduce(most) for most in (0.4, 1.9, 2, 3.9, 7.9, 9)] == [1, 1, 2, 2, 4, 8]
    whole = pixels_of(data).astype(float)
    for reduction in (2, 4, 8):
        means = whole.reshape(160 // reduction, reduction, 120 // reduction, reduction, 3).mean((1, 3))
        assert np.abs(pixels_of(data, reduction=reduction) - means).mean() < 2
    assert open_picture(encoded(Image.fromarray(SMOOTH)), 3, Pixels()).can_reduce(8) == 1


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    expected = np.rint(values / 257.0)
    for channels in (1, 3):
        found = pixels_of(encoded(Image.fromarray(values)), channels)
        assert np.abs(found - expected[..., None]).max() <= 1
    found = pixels_of(encoded(Image.fromarray(values), "TIFF"), 4)
    assert np.abs(found[..., :3] - expected[..., None]).max() <= 1
    assert (found[..., 3] == 255).all()


def test_a_range_says_what_is_black_and_white():
    values = np.array([[-2000, -1000, -300, 400, 3000]], dtype=np.int16)
    assert pixels_of(npy(values), 1, range=(-1000, 400), mean=(0.5,), std=(0.2,)).ravel().tolist() == [
        0,
        0,
        128,
        255,
        255,
    ]
    floats = np.array([[0.0, 0.25, 1.0, np.nan]], dtype=np.float32)
    tiff = encoded(Image.fromarray(floats), "TIFF")
    assert pixels_of(tiff, range=(0, 1))[0, :, 0].tolist() == [0, 64, 255, 0]
    with pytest.raises(ValueError, match=r"samples of float32 have no range .* recipe\.pixels\.range"):
        pixels_of(tiff)
    eight = np.array([[0, 100, 255]], dtype=np.uint8)
    assert pixels_of(npy(eight), 1, range=(0, 10)).ravel().tolist() == [0, 100, 255]


def test_the_channels_are_those_of_the_model():
    see_through = Image.fromarray(np.dstack([SMOOTH, np.zeros(SMOOTH.shape[:2], np.uint8)]))
    assert (pixels_of(encoded(see_through)) == 255).all()  # on white
    assert np.array_equal(pixels_of(encoded(see_through), 4), np.asarray(see_through))
    assert (pixels_of(encoded(Image.fromarray(SMOOTH)), 4)[..., 3] == 255).all()
    luma = np.asarray(Image.fromarray(SMOOTH).convert("L"))[..., None]
    assert np.array_equal(pixels_of(encoded(Image.fromarray(SMOOTH)), 1), luma)
    assert np.abs(pixels_of(encoded(Image.fromarray(SMOOTH), "JPEG", quality=98), 1) - luma.astype(float)).mean() < 1
    assert np.ptp(pixels_of(encoded(Image.fromarray(luma[..., 0]))), axis=-1).max() == 0
    palette = Image.fromarray(SMOOTH).quantize(16)
    assert np.array_equal(pixels_of(encoded(palette)), np.asarray(palette.convert("RGB")))
    bits = Image.fromarray(luma[..., 0]).convert("1")
    assert set(np.unique(pixels_of(encoded(bits), 1))) == {0, 255}


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_arrays_and_pages_hold_any_number_of_channels(channels):
    values = RNG.integers(0, 256, (20, 30, channels), dtype=np.uint8)
    assert np.array_equal(pixels_of(npy(values), channels), values)
    assert np.array_equal(pixels_of(npy(np.asfortranarray(values)), channels), values)
    assert np.array_equal(pixels_of(npy(np.ascontiguousarray(values.transpose(2, 0, 1))), channels), values)
    if channels > 1:
        first, *rest = (Image.fromarray(values[..., channel]) for channel in range(channels))
        tiff = encoded(first, "TIFF", save_all=True, append_images=rest)
        assert np.array_equal(pixels_of(tiff, channels), values)
        assert np.array_equal(pixels_of(tiff, 1)[..., 0], values[..., 0])  # a document: its first page


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "cannot identify"),
        (b"no image", "cannot identify"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "cannot identify"),
        (encoded(Image.fromarray(SMOOTH), "JPEG")[:900], "truncated"),
        (encoded(Image.fromarray(SMOOTH))[:900], "truncated|broken"),
        (npy(SMOOTH)[:900], "the array is cut off"),
        (npy(np.array(["text"])), "an array of <U4"),
        (npy(np.array([{}], dtype=object)), "an array of object"),
        (npy(np.zeros((4, 4, 2), np.uint8)), r"an array of shape \(4, 4, 2\) for 3 channels"),
        (npy(np.zeros((0, 4, 3), np.uint8)), r"an array of shape \(0, 4, 3\) for 3 channels"),
        (npy(np.zeros((4, 4, 3), np.int16)), "samples of int16 have no range"),
    ],
)
def test_what_cannot_be_read_is_a_value_error(data, why):
    with pytest.raises(ValueError, match=why):
        open_picture(data, 3, Pixels()).decode(1)
