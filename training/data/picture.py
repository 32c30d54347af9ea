"""From encoded bytes to pixels: upright, in the channels that the model takes, and no larger than needed."""

import io
import math
from typing import Protocol

import numpy as np
from PIL import Image

from training.config import Pixels

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")  # no bytes from the web reach another decoder
REDUCTIONS = (8, 4, 2)  # of a JPEG, which libjpeg makes at little cost
_ORIENTATION = 0x0112  # of EXIF
_UPRIGHT = {  # orientation -> whether rows and columns change places, then the steps along rows and along columns
    2: (False, 1, -1),
    3: (False, -1, -1),
    4: (False, -1, 1),
    5: (True, 1, 1),
    6: (True, 1, -1),
    7: (True, -1, -1),
    8: (True, -1, 1),
}
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_NUMPY = b"\x93NUMPY"


class Picture(Protocol):
    """A picture of which the header was read.

    Attributes:
        width: px, upright.
        height: px, upright.
    """

    width: int
    height: int

    def decode(self, reduction: int) -> np.ndarray:
        """Its pixels, uint8 [ceil(height / reduction), ceil(width / reduction), C].

        Args:
            reduction: what :meth:`can_reduce` gave.
        """
        ...

    def can_reduce(self, most: float) -> int:
        """The largest reduction up to ``most`` that decoding offers, at least 1."""
        ...


def open_picture(data: bytes, channels: int, pixels: Pixels) -> Picture:
    """Read the header of an image.

    What a file has becomes what the model takes: for 1 channel its luma, for 3 RGB on white, for 4 RGBA. For any number
    of channels a file may be an array of NumPy ([H, W, C], [C, H, W] or [H, W]; never a pickle) or a TIFF with a page a
    channel. 8-bit samples stay as they are; deeper ones are scaled from ``pixels.range`` to 0..255, those of 16 bits by
    default from all they can be.

    Raises:
        ValueError: nothing can read it, its header is damaged, or its channels or range do not fit. What decodes
            it later raises ValueError too where it is cut off.
    """
    try:
        return _Array(data, channels, pixels) if data.startswith(_NUMPY) else _Encoded(data, channels, pixels)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise a dozen types on broken files
        raise ValueError(f"cannot be decoded: {error}") from error


class _Encoded:
    """An image file that Pillow reads."""

    def __init__(self, data: bytes, channels: int, pixels: Pixels) -> None:
        self._image, self._channels, self._pixels = Image.open(io.BytesIO(data), formats=FORMATS), channels, pixels
        self._orientation = _orientation(self._image)
        self.width, self.height = self._image.size
        if self._orientation >= 5:
            self.width, self.height = self.height, self.width

    def can_reduce(self, most: float) -> int:
        """The largest reduction up to ``most`` that decoding offers, at least 1."""
        if self._image.format not in ("JPEG", "MPO"):
            return 1
        return next((factor for factor in REDUCTIONS if factor <= most), 1)

    def decode(self, reduction: int) -> np.ndarray:
        """Its pixels, uint8 [H, W, C]."""
        try:
            return _upright(self._stack() if self._is_stack() else self._flat(reduction), self._orientation)
        except MemoryError:
            raise
        except Exception as error:  # as above
            raise ValueError(f"cannot be decoded: {error}") from error

    def _flat(self, reduction: int) -> np.ndarray:
        image: Image.Image = self._image
        mode = _MODES.get(self._channels)
        if mode is None:
            raise ValueError(f"a {image.format} of mode {image.mode} does not have {self._channels} channels")
        width, height = image.size
        image.draft(mode, (width // reduction, height // reduction))  # does something to a JPEG alone
        image.load()
        if image.mode[0] in "IF":
            image = Image.fromarray(to_8_bits(np.asarray(image), self._pixels))
        if mode != "RGBA" and image.has_transparency_data:
            layer = image.convert("RGBA")
            image = Image.new("RGB", layer.size, (255, 255, 255))
            image.paste(layer, mask=layer.getchannel("A"))
        return np.array(image if image.mode == mode else image.convert(mode)).reshape(*image.size[::-1], -1)

    def _is_stack(self) -> bool:
        image = self._image
        is_single = self._channels > 1 and image.format == "TIFF" and len(image.getbands()) == 1
        return is_single and getattr(image, "n_frames", 1) == self._channels

    def _stack(self) -> np.ndarray:
        pages = []
        for page in range(self._channels):
            self._image.seek(page)
            pages.append(to_8_bits(np.asarray(self._image), self._pixels))
        return np.stack(pages, axis=-1)


class _Array:
    """A ``.npy`` file."""

    def __init__(self, data: bytes, channels: int, pixels: Pixels) -> None:
        stream = io.BytesIO(data)
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(stream)
        if dtype.kind not in "uif":
            raise ValueError(f"an array of {dtype}; save numbers, uint8 or uint16 for example")
        if len(data) - stream.tell() < math.prod(shape) * dtype.itemsize:
            raise ValueError("the array is cut off")
        flat = np.frombuffer(data, dtype, count=math.prod(shape), offset=stream.tell())
        values = flat.reshape(shape, order="F" if is_fortran else "C")
        if values.ndim == 2:
            values = values[..., None]
        elif values.ndim == 3 and values.shape[-1] != channels:
            values = values.transpose(1, 2, 0)
        if values.ndim != 3 or values.shape[-1] != channels or not values.size:
            raise ValueError(f"an array of shape {shape} for {channels} channels")
        self._values, self._pixels = values, pixels
        self.height, self.width = values.shape[:2]

    def can_reduce(self, most: float) -> int:  # noqa: ARG002
        """1: there is nothing to gain."""
        return 1

    def decode(self, reduction: int) -> np.ndarray:  # noqa: ARG002
        """Its pixels, uint8 [H, W, C]."""
        return np.array(to_8_bits(self._values, self._pixels), order="C")


def to_8_bits(values: np.ndarray, pixels: Pixels) -> np.ndarray:
    """Samples as uint8: those that are stay so, all others go from ``pixels.range`` to 0..255; NaN becomes 0.

    Raises:
        ValueError: they are neither of 8 nor of 16 bits without a sign, and no range is set.
    """
    if values.dtype in (np.uint8, np.bool_):
        return values if values.dtype == np.uint8 else values.astype(np.uint8) * 255
    bounds = pixels.range or ((0, 65535) if (values.dtype.kind, values.dtype.itemsize) == ("u", 2) else None)
    if bounds is None:
        raise ValueError(f"samples of {values.dtype} have no range of their own; set recipe.pixels.range=[LOW, HIGH]")
    low, high = bounds
    scaled = (values.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    return np.rint(np.nan_to_num(scaled, nan=0, posinf=255, neginf=0).clip(0, 255)).astype(np.uint8)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8; 1 where metadata are broken. Pillow turns TIFF by itself."""
    if image.format == "TIFF":
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:  # hostile metadata must not cost the picture
        return 1
    return value if value in _UPRIGHT else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    if orientation not in _UPRIGHT:
        return pixels
    swap, rows, columns = _UPRIGHT[orientation]
    return np.ascontiguousarray((pixels.swapaxes(0, 1) if swap else pixels)[::rows, ::columns])
