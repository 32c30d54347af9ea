"""Pictures as a frozen backbone sees them: no augmentation, the middle of each."""

from pathlib import Path

import numpy as np
from PIL import Image

from training.data.augment import decode
from training.data.release import IMAGE_SUFFIXES

_RESIZE = 256 / 224  # the shorter side, over the crop, as in evaluation


def centre(data: bytes, size: int) -> np.ndarray:
    """The middle of an encoded image, uint8 [size, size, 3].

    Raises:
        ValueError: it cannot be decoded.
    """
    image = decode(data)
    scale = round(size * _RESIZE) / min(image.size)
    width, height = (max(round(side * scale), size) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.array(resized.crop((left, top, left + size, top + size)))


def labelled(folder: str, key: str) -> tuple[list[Path], list[str]]:
    """The images of a folder that holds a folder a class, and the class of each, in the order of their paths.

    Raises:
        ValueError: there is none; the message names ``key``.
    """
    root = Path(folder)
    found = sorted(
        path for path in root.glob("*/**/*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    )  # fmt: skip
    if not found:
        raise ValueError(f"{key} = {folder!r}: no images in folders of classes; expected {folder}/<class>/*.jpg")
    return found, [path.relative_to(root).parts[0] for path in found]
