"""Multi-crop augmentation: an image in, two global and several local crops out.

Pillow resizes (antialiased, and only the box that is needed); NumPy and OpenCV do the rest on small float arrays.
"""

import functools
import io
import math
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from training.config import Crops

Pixels = np.ndarray  # float32 [H, W, 3] in 0..1

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as every DINOv2 checkpoint expects

BLUR = {  # probability for the first global, the second global, and each local crop
    "documented": (1.0, 0.1, 0.5),
    "upstream": (0.0, 0.9, 0.5),  # what upstream's code does: it passes 1 - p
}
FLIP, JITTER, GREY, SOLARISE = 0.5, 0.8, 0.2, 0.2
BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.4, 0.4, 0.2, 0.1
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


class Views(NamedTuple):
    """The crops of one image, uint8, channels last."""

    global_crops: np.ndarray  # [2, S, S, 3]
    local_crops: np.ndarray  # [L, s, s, 3]


def decode(data: bytes) -> Image.Image:
    """Decode to RGB.

    Raises:
        ValueError: the bytes are not an image that Pillow can read to its end.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB")
    except Exception as error:  # Pillow's plugins raise a dozen types on broken files
        raise ValueError(f"cannot be decoded: {error}") from error


def multi_crop(image: Image.Image, config: Crops, rng: np.random.Generator) -> Views:
    """All crops of one image."""
    first, second, local = BLUR[config.blur]
    globals_ = [
        view(image, config.global_size, config.global_scale, first, 0.0, rng),
        view(image, config.global_size, config.global_scale, second, SOLARISE, rng),
    ]
    locals_ = [view(image, config.local_size, config.local_scale, local, 0.0, rng) for _ in range(config.num_local)]
    empty = np.empty((0, config.local_size, config.local_size, 3), dtype=np.uint8)
    return Views(np.stack(globals_), np.stack(locals_) if locals_ else empty)


def view(
    image: Image.Image, size: int, scale: tuple[float, float], blur: float, solarise: float, rng: np.random.Generator
) -> np.ndarray:
    """One augmented crop, uint8 [size, size, 3].

    Args:
        image: RGB.
        size: side of the crop in px.
        scale: bounds of the crop's share of the image's area.
        blur: probability of a Gaussian blur.
        solarise: probability of solarisation.
        rng: the generator of this image.
    """
    box = random_box(image.width, image.height, scale, rng)
    crop = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    x: Pixels = np.asarray(crop, dtype=np.float32) / 255
    if rng.random() < FLIP:
        x = np.ascontiguousarray(x[:, ::-1])
    if rng.random() < JITTER:
        x = jitter(x, rng)
    if rng.random() < GREY:
        x = np.repeat((x @ LUMA)[..., None], 3, axis=-1)
    if rng.random() < blur:
        x = cv2.GaussianBlur(x, (9, 9), rng.uniform(0.1, 2.0), borderType=cv2.BORDER_REFLECT_101)
    if rng.random() < solarise:
        x = np.where(x >= 128 / 255, 1 - x, x)
    return np.rint(x * 255).astype(np.uint8)


def random_box(
    width: int, height: int, scale: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A box (left, top, right, bottom) of random area and aspect 3/4 to 4/3, as torchvision's RandomResizedCrop."""
    log_aspect = math.log(4 / 3)
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(-log_aspect, log_aspect))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def jitter(x: Pixels, rng: np.random.Generator) -> Pixels:
    """Brightness, contrast, saturation and hue in random order, as torchvision's ColorJitter."""
    brightness, contrast, saturation = (1 + rng.uniform(-a, a) for a in (BRIGHTNESS, CONTRAST, SATURATION))
    hue = 360 * rng.uniform(-HUE, HUE)
    for change in rng.permutation(4):
        if change == 0:
            x = _blend(x, 0.0, brightness)
        elif change == 1:
            x = _blend(x, (x @ LUMA).mean(), contrast)
        elif change == 2:
            x = _blend(x, (x @ LUMA)[..., None], saturation)
        else:
            hsv = cv2.cvtColor(x, cv2.COLOR_RGB2HSV)  # hue in degrees
            hsv[..., 0] = (hsv[..., 0] + hue) % 360
            x = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return x


def _blend(x: Pixels, other: Pixels | float, share: float) -> Pixels:
    return np.clip(np.float32(share) * x + np.float32(1 - share) * other, 0, 1).astype(np.float32)


def normalise(crops: Tensor) -> Tensor:
    """uint8 [B, S, S, 3] to normalised fp32 [B, 3, S, S], on the device of ``crops``."""
    mean, std = (_kept(values, crops.device) for values in (MEAN, STD))
    return ((crops.float() / 255 - mean) / std).permute(0, 3, 1, 2)


@functools.cache
def _kept(values: tuple[float, ...], device: torch.device) -> Tensor:
    """A constant on a device, brought there once: to bring it waits for all that the device has to do."""
    return torch.tensor(values, device=device)
