"""Pictures as planted: encodings, edits that a copy detector has to see through, and files that are no pictures."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFont, ImageOps

from curation.pocket_web.photos import Pixels

ORIGINAL_QUALITY = 92


def encode(image: Image.Image | Pixels, form: str = "jpg", quality: int = ORIGINAL_QUALITY) -> bytes:
    """Encode as ``jpg``, ``png`` or ``webp``; a picture without colour becomes a grey-scale JPEG."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    out = io.BytesIO()
    if form == "png":
        picture.save(out, "PNG", optimize=False, compress_level=9)
    elif form == "webp":
        picture.save(out, "WEBP", quality=quality, method=4)
    else:
        values = np.asarray(picture.convert("RGB"))
        grey = bool((values[..., 0] == values[..., 1]).all() and (values[..., 0] == values[..., 2]).all())
        picture.convert("L" if grey else "RGB").save(out, "JPEG", quality=quality)
    return out.getvalue()


def reencoded(image: Image.Image) -> bytes:
    """The same picture at the same size, a little more compressed: near-exact."""
    return encode(image, quality=85)


def _jpeg(image: Image.Image) -> bytes:
    return encode(image, quality=30)


def _resize(image: Image.Image) -> bytes:
    return encode(image.resize((96, 96), Image.Resampling.BICUBIC), quality=85)


def _crop(image: Image.Image) -> bytes:
    return encode(image.crop((8, 6, 120, 118)), quality=85)


def _brightness(image: Image.Image) -> bytes:
    return encode(ImageEnhance.Brightness(ImageEnhance.Contrast(image).enhance(0.85)).enhance(1.15), quality=80)


def _colour(image: Image.Image) -> bytes:
    red, green, blue = image.split()
    tinted = (red.point(lambda v: min(255, int(v * 1.15))), green, blue.point(lambda v: int(v * 0.85)))
    return encode(Image.merge("RGB", tinted), quality=80)


def _mirror(image: Image.Image) -> bytes:
    return encode(ImageOps.mirror(image), quality=80)


def _overlay(image: Image.Image) -> bytes:
    picture = image.copy()
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 104, 128, 128), fill=(20, 20, 20))
    draw.text((10, 108), "sample photo", fill=(240, 240, 240), font=ImageFont.load_default(14))
    return encode(picture, quality=60)


def _grey(image: Image.Image) -> bytes:
    return encode(image.convert("L").convert("RGB"), quality=80)


# Every edit is smaller, or more compressed at the same size, than its original, so that a rule which keeps the
# largest and least compressed picture of a group keeps the original.
EDITS: dict[str, Callable[[Image.Image], bytes]] = {
    "jpeg": _jpeg,
    "resize": _resize,
    "crop": _crop,
    "brightness": _brightness,
    "colour": _colour,
    "mirror": _mirror,
    "overlay": _overlay,
    "grey": _grey,
}

# The edits that leave the coarse picture alone, so that a hash of it may rightly catch them before the copy detector.
FAINT_EDITS = ("jpeg", "resize", "brightness", "colour", "grey")


def noise(size_bytes: int, seed: int) -> bytes:
    """Random bytes: no picture at all."""
    return np.random.default_rng(seed).bytes(size_bytes)


def truncated(data: bytes) -> bytes:
    """The first part of a file."""
    return data[: len(data) * 55 // 100]


def icon(image: Image.Image, side: int) -> bytes:
    """A picture too small to learn from, as PNG."""
    return encode(image.resize((side, side), Image.Resampling.BOX), form="png")


def tracking_pixel() -> bytes:
    """A GIF of one pixel."""
    out = io.BytesIO()
    Image.new("P", (1, 1)).save(out, "GIF")
    return out.getvalue()


def solid() -> bytes:
    """A picture of one colour."""
    return encode(Image.new("RGB", (160, 120), (236, 236, 236)))


def placeholder() -> bytes:
    """What shops show where they have no picture: a few words on white."""
    picture = Image.new("RGB", (300, 300), "white")
    ImageDraw.Draw(picture).text((110, 140), "no image yet", fill=(90, 90, 90), font=ImageFont.load_default(12))
    return encode(picture, form="png")


def animation(image: Image.Image, form: str) -> bytes:
    """Three frames, each turned a quarter further, as ``GIF`` or ``WEBP``."""
    out = io.BytesIO()
    turned = [image.rotate(angle) for angle in (90, 180)]
    image.save(out, form, save_all=True, append_images=turned, duration=100, loop=0)
    return out.getvalue()


def banner(image: Image.Image, upright: bool = False) -> bytes:
    """A strip of a picture, eight times as long as broad."""
    width, height = image.size
    strip = image.crop((0, height * 7 // 16, width, height * 9 // 16)).resize((640, 80), Image.Resampling.BICUBIC)
    return encode(strip.transpose(Image.Transpose.ROTATE_90) if upright else strip)


def turned(image: Image.Image) -> bytes:
    """A JPEG that is stored lying on its side and says so in its EXIF data."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    out = io.BytesIO()
    image.transpose(Image.Transpose.ROTATE_90).save(out, "JPEG", quality=ORIGINAL_QUALITY, exif=exif)
    return out.getvalue()


def cmyk(image: Image.Image) -> bytes:
    """A JPEG in the colours of print, inverted as Adobe's programs write it."""
    out = io.BytesIO()
    image.convert("CMYK").save(out, "JPEG", quality=ORIGINAL_QUALITY)
    return out.getvalue()


def grey16(image: Image.Image) -> bytes:
    """A PNG of 16 bits a pixel without colour."""
    out = io.BytesIO()
    Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257).save(out, "PNG")
    return out.getvalue()


def bomb(side: int = 50_000) -> bytes:
    """A PNG of a few kilobytes that declares ``side`` x ``side`` pixels; its data would go on for that long."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(4_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def svg() -> bytes:
    """A vector graphic with a script in it: refused, never drawn."""
    return (
        b'<?xml version="1.0" encoding="UTF-8"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="200" height="200">'
        b'<script>alert("svg")</script><circle cx="100" cy="100" r="80" fill="teal"/></svg>\n'
    )


def error_page() -> bytes:
    """HTML that a server sends where a picture was asked for."""
    return b"<!doctype html><html><head><title>Sorry</title></head><body><p>This picture has moved.</p></body></html>\n"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
