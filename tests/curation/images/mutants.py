"""Damaged pictures for tests: seeds of every format, and random mutations of them."""

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image


def photo(width: int = 96, height: int = 72) -> Image.Image:
    """A picture with coarse shapes and fine noise."""
    rng = np.random.default_rng(width * 1000 + height)
    shapes = Image.fromarray(rng.integers(0, 256, (5, 6, 3)).astype(np.uint8)).resize((width, height))
    noise = rng.integers(-20, 21, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(shapes, np.int64) + noise, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    """The picture in one of Pillow's formats."""
    file = io.BytesIO()
    image.copy().save(file, form, **options)  # saving leaves settings behind on a picture
    return file.getvalue()


def seeds() -> dict[str, bytes]:
    """One valid file for each way in which a format is written."""
    picture, small = photo(), photo(40, 40)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    moving = {"save_all": True, "append_images": [photo(96, 72).rotate(k) for k in (90, 180)], "duration": 40}
    glass = picture.copy()
    glass.putalpha(picture.convert("L"))
    grey16 = Image.fromarray(np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 21)
    real = Image.fromarray(np.linspace(-1, 1, 48 * 64, dtype=np.float32).reshape(48, 64))
    palette = picture.quantize(64)
    return {
        "jpeg": encoded(picture, "JPEG"),
        "jpeg_exif": encoded(picture, "JPEG", exif=exif, icc_profile=bytes(600), comment=b"words"),
        "jpeg_progressive": encoded(picture, "JPEG", progressive=True, optimize=True),
        "jpeg_restarts": encoded(picture, "JPEG", restart_marker_blocks=2),
        "jpeg_grey": encoded(picture.convert("L"), "JPEG"),
        "jpeg_cmyk": encoded(picture.convert("CMYK"), "JPEG"),
        "mpo": encoded(picture, "MPO", save_all=True, append_images=[small.copy()]),
        "png": encoded(picture, "PNG", exif=exif, icc_profile=bytes(600)),
        "png_alpha": encoded(glass, "PNG"),
        "png_palette": encoded(palette, "PNG", transparency=3),
        "png_grey16": encoded(grey16, "PNG"),
        "png_bits": encoded(picture.convert("1"), "PNG"),
        "apng": encoded(picture, "PNG", **moving),
        "webp": encoded(picture, "WEBP", exif=exif),
        "webp_lossless": encoded(glass, "WEBP", lossless=True),
        "webp_moving": encoded(picture, "WEBP", **moving),
        "gif": encoded(palette, "GIF", transparency=3, comment=b"words"),
        "gif_moving": encoded(picture, "GIF", **moving),
        "bmp": encoded(picture, "BMP"),
        "bmp_palette": encoded(palette, "BMP"),
        "bmp_bits": encoded(picture.convert("1"), "BMP"),
        "tiff": encoded(picture, "TIFF", exif=exif),
        "tiff_lzw": encoded(picture, "TIFF", compression="tiff_lzw"),
        "tiff_deflate": encoded(glass, "TIFF", compression="tiff_adobe_deflate"),
        "tiff_jpeg": encoded(picture, "TIFF", compression="jpeg"),
        "tiff_fax": encoded(picture.convert("1"), "TIFF", compression="group4"),
        "tiff_packbits": encoded(palette, "TIFF", compression="packbits"),
        "tiff_float": encoded(real, "TIFF"),
        "tiff_big": encoded(grey16, "TIFF", big_tiff=True),
        "tiff_pages": encoded(picture, "TIFF", save_all=True, append_images=[small.copy()]),
        "avif": encoded(small, "AVIF", exif=exif, speed=10),
        "avif_moving": encoded(small, "AVIF", save_all=True, append_images=[small.rotate(90)], speed=10),
        "ico": encoded(picture, "ICO"),
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><circle r="4"/></svg>',
    }


def mutants(files: list[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Files with flipped bits, cuts, splices of two files, overwritten numbers and repeated parts."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        data = bytearray(files[number % len(files)])
        for _ in range(rng.integers(1, 4)):
            data = _mutated(data, files, rng)
        yield bytes(data)


def _mutated(data: bytearray, files: list[bytes], rng: np.random.Generator) -> bytearray:
    if not data:
        return data
    # headers are where a changed byte does most
    end = min(len(data), int(rng.choice([32, 256, 4096, len(data)])))
    place = int(rng.integers(end))
    match int(rng.integers(7)):
        case 0:
            for position in rng.integers(0, end, rng.integers(1, 12)):
                data[position] ^= 1 << int(rng.integers(8))
        case 1:
            del data[place:]
        case 2:
            other = files[rng.integers(len(files))]
            start = int(rng.integers(len(other)))
            data[place:] = other[start:]
        case 3:
            number = int(rng.choice([0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF]))
            width = int(rng.choice([1, 2, 4]))
            order = "big" if rng.integers(2) else "little"
            data[place : place + width] = (number % 256**width).to_bytes(width, order)
        case 4:
            length = int(rng.integers(1, 65))
            data[place:place] = data[place : place + length] * int(rng.integers(1, 20))
        case 5:
            del data[place : place + int(rng.integers(1, 65))]
        case 6:
            data[place : place + 8] = rng.bytes(8)
    return data
