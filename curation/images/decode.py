"""Decode untrusted bytes into an upright RGB picture, or say why not."""

import contextlib
import ctypes
import dataclasses
import functools
import io
import logging
import threading
import warnings
from dataclasses import dataclass
from typing import cast

import numpy as np
from PIL import Image, UnidentifiedImageError, _imaging

from curation.images.frames import gif_size, has_more_scans, num_frames, tiled_size
from curation.schema import Reason

# What the decoder may be asked to parse; everything else never reaches it.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

_UPRIGHT = {  # EXIF orientation -> the operation that undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_ORIENTATION = 0x0112
_MAX_SCANS = 100  # of a JPEG, as libtiff has it for those within a TIFF; encoders write 10 or so
_PART = 1 << 20  # samples turned into float64 at once
_OTHER_MAGIC = (  # image formats that are recognised in order to be refused by name
    b"8BPS", b"\x00\x00\x01\x00", b"\x00\x00\x02\x00", b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51", b"\xff\x0a",
    b"\x00\x00\x00\x0cJXL ", b"%PDF", b"%!PS", b"qoif", b"DDS ", b"v/1\x01", b"#?RADIANCE", b"SIMPLE  =", b"FLIF",
    b"BPG\xfb",
)  # fmt: skip


@dataclass(frozen=True)
class Header:
    """What a file says of its picture.

    Attributes:
        format: one of ``FORMATS``: that of the bytes, whatever the file's name says.
        width: in pixels, of the upright picture where it was decoded; made up to whole tiles where they are too large.
        height: in pixels, likewise.
        num_frames: pictures in the file: frames of an animation, pages of a TIFF.
    """

    format: str
    width: int
    height: int
    num_frames: int


@dataclass(frozen=True)
class Decoded(Header):
    """A decoded picture.

    Attributes:
        image: RGB, upright, first frame; ``width`` x ``height`` pixels unless less was asked for.
    """

    image: Image.Image


class DecodeError(ValueError):
    """The bytes give no picture.

    Attributes:
        reason: why, in the ledger's terms.
        header: what the file declares, where its header could be read.
    """

    def __init__(self, reason: Reason, message: str, header: Header | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.header = header


def decode(data: bytes, max_pixels: int, square_side: int | None = None, min_side: int | None = None) -> Decoded:
    """Decode the first frame to upright 8-bit RGB.

    Transparent pixels show white; 16-bit samples lose their low byte; 32-bit and float samples are stretched
    to the full range; a CMYK JPEG is taken for inverted, as Adobe writes it and browsers show it; colour profiles
    are not applied. The views behind the first of an MPO are not looked at.

    Args:
        data: the encoded bytes.
        max_pixels: refuse pictures that declare more, before any of their pixels is decoded.
        square_side: give a square of this many pixels, the aspect ratio given up. Every byte is still parsed, but JPEG
            is decoded at 1/2, 1/4 or 1/8 scale where that is enough, which is several times faster.
        min_side: decode JPEG at such a scale where both sides keep at least so many pixels; the aspect ratio stays.

    Raises:
        DecodeError: NOT_AN_IMAGE, UNSUPPORTED_FORMAT, TRUNCATED (cut off or damaged), TOO_MANY_PIXELS.
        MemoryError: the machine has too little, which says nothing of the picture.
    """
    _quieten()
    with warnings.catch_warnings(), _pillow_limit_lifted:
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata; the pixels decide
        image = _open(data, max_pixels)
        header = None
        try:
            header = _header(image, data)
            _check_size(header, max_pixels)
            _check_effort(image, header, data, max_pixels)
            return _load(image, header, square_side, min_side)
        except (DecodeError, MemoryError):
            raise
        except Exception as error:  # decoders of hostile bytes raise nearly anything
            raise DecodeError(Reason.TRUNCATED, f"{image.format}: {_sentence(error)}", header) from error


def squared(image: Image.Image, side: int, box: tuple[float, float, float, float] | None = None) -> Image.Image:
    """A picture, or the part of it within ``box``, as a square: smooth shrinking, in whole numbers on any machine."""
    return image.resize((side, side), Image.Resampling.BILINEAR, box, reducing_gap=3.0)


class _PillowLimitLifted:
    """Lifts Pillow's own limit on pixels while at least one picture is being decoded: ours alone decides.

    The limit is one for the whole process, so threads that come and go are counted: the first lifts it, the last
    puts it back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._limit: int | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                Image.MAX_IMAGE_PIXELS = self._limit


_pillow_limit_lifted = _PillowLimitLifted()


def _open(data: bytes, max_pixels: int) -> Image.Image:
    if data.startswith((b"GIF87a", b"GIF89a")):
        _check_size(Header("GIF", *gif_size(data), 1), max_pixels)
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise DecodeError(_why_unreadable(data), f"none of {', '.join(FORMATS)}, which are decoded") from error
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise DecodeError(_why_unreadable(data), f"no decoder reads it: {_sentence(error)}") from error


def _header(image: Image.Image, data: bytes) -> Header:
    width, height = image.size
    format_ = "JPEG" if image.format == "MPO" else cast(str, image.format)  # MPO: a JPEG with more behind it
    return Header(format_, width, height, num_frames(image, data))


def _load(image: Image.Image, header: Header, square_side: int | None, min_side: int | None) -> Decoded:
    width, height = header.width, header.height
    box = None
    if square_side is not None and (drafted := image.draft(None, (2 * square_side, 2 * square_side))):
        box = drafted[1]  # the declared picture within the reduced one, which is rounded up to whole pixels
    elif min_side is not None:
        image.draft(None, (min_side, min_side))
    image.load()
    orientation = _orientation(image)
    image = _rgb(image, header)
    if square_side is not None:
        image = squared(image, square_side, box)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    if orientation >= 5:
        width, height = height, width
    return Decoded(header.format, width, height, header.num_frames, image)


def _check_size(header: Header, max_pixels: int) -> None:
    if header.width * header.height > max_pixels:
        message = f"declares {header.width} x {header.height} pixels, more than {max_pixels}"
        raise DecodeError(Reason.TOO_MANY_PIXELS, message, header)


def _check_effort(image: Image.Image, header: Header, data: bytes, max_pixels: int) -> None:
    """Refuse what takes far more to decode than the size of the picture tells."""
    if header.format == "JPEG" and has_more_scans(data, _MAX_SCANS):
        raise DecodeError(Reason.UNSUPPORTED_FORMAT, f"JPEG of more than {_MAX_SCANS} scans", header)
    if header.format == "TIFF" and (size := tiled_size(image, data)):
        _check_size(dataclasses.replace(header, width=size[0], height=size[1]), max_pixels)


@functools.cache
def _quieten() -> None:
    """Keep Pillow and libtiff from writing to the terminal what is wrong with a file; the exceptions say the same."""
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    with contextlib.suppress(OSError, AttributeError):  # a Pillow that is linked in another way stays as it is
        ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8; 1 where the metadata are broken. Pillow has turned TIFF pictures already."""
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:  # hostile metadata must not cost the picture
        return 1
    return value if value in range(1, 9) else 1


def _rgb(image: Image.Image, header: Header) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        image = Image.fromarray(_stretched(np.asarray(image)))
    if image.mode in ("RGBA", "LA", "La", "RGBa", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.new("RGB", layer.size, (255, 255, 255))
        image.paste(layer, mask=layer.getchannel("A"))
    try:
        return image if image.mode == "RGB" else image.convert("RGB")
    except ValueError as error:
        message = f"colour mode {image.mode} does not convert to RGB"
        raise DecodeError(Reason.UNSUPPORTED_FORMAT, message, header) from error


def _stretched(values: np.ndarray) -> np.ndarray:
    """Values mapped linearly from their range onto 0 to 255, as uint8; what is not finite counts as 0."""
    flat, stretched = values.ravel(), np.empty(values.size, np.uint8)
    parts = [slice(start, start + _PART) for start in range(0, flat.size, _PART)]

    def finite(part: slice) -> np.ndarray:
        return np.nan_to_num(flat[part].astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)

    low = min(float(finite(part).min()) for part in parts)
    high = max(float(finite(part).max()) for part in parts)
    for part in parts:
        stretched[part] = (finite(part) - low) * (255 / (high - low or 1.0)) + 0.5
    return stretched.reshape(values.shape)


def _why_unreadable(data: bytes) -> Reason:
    """The reason for bytes that no decoder opens, from their first bytes."""
    if _starts_like_a_supported_format(data):
        return Reason.TRUNCATED
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    is_svg = head.startswith(b"<") and b"<svg" in head and b"<html" not in head
    is_pnm = data[:1] == b"P" and data[1:2].isdigit() and data[2:3].isspace()
    if is_svg or is_pnm or data.startswith(_OTHER_MAGIC) or data[4:8] == b"ftyp":
        return Reason.UNSUPPORTED_FORMAT
    return Reason.NOT_AN_IMAGE


def _starts_like_a_supported_format(data: bytes) -> bool:
    return (
        data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\x00", b"MM\x00*"))
        or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")
        or (data[4:12] in (b"ftypavif", b"ftypavis"))
        or (data[:2] == b"BM" and data[6:10] == bytes(4))  # two reserved words: text that begins with BM has none
    )


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
