"""Pictures as a frozen backbone sees them: no augmentation, the middle of each."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from training.config import Pixels
from training.data.folder import IMAGE_SUFFIXES
from training.data.picture import open_picture

_RESIZE = 256 / 224  # the shorter side, over the crop, as in evaluation


def centre(data: bytes, size: int, channels: int, pixels: Pixels) -> np.ndarray:
    """The middle of an encoded image, uint8 [size, size, channels].

    Raises:
        ValueError: it cannot be decoded, or has other channels.
    """
    image = torch.from_numpy(open_picture(data, channels, pixels).decode(1)).permute(2, 0, 1)
    scale = round(size * _RESIZE) / min(image.shape[1:])
    height, width = (max(round(side * scale), size) for side in image.shape[1:])
    resized = F.interpolate(image[None], (height, width), mode="bicubic", antialias=True)[0]
    top, left = (height - size) // 2, (width - size) // 2
    return resized[:, top : top + size, left : left + size].permute(1, 2, 0).contiguous().numpy()


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
