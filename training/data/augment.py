"""Multi-crop augmentation: an image in, two global and several local crops out.

What is cut is drawn before anything is decoded, so that one decoding, at the least scale, does for all crops.
"""

import functools
import math
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.config import Crops, Pixels
from training.data.colour import SOLARISE, Colour, coloured, draw_colour
from training.data.picture import Picture

BLUR = {  # probability for the first global, the second global, and each local crop
    "documented": (1.0, 0.1, 0.5),
    "upstream": (0.0, 0.9, 0.5),  # what upstream's code does: it passes 1 - p
    "none": (0.0, 0.0, 0.0),  # for small pictures: a sigma of 2 leaves little of 32 px
}
FLIP = 0.5
_FAST_CHANNELS = 4  # more at once, and torch resizes them many times more slowly

Box = tuple[int, int, int, int]  # left, top, right, bottom, px


class Crop(NamedTuple):
    """What is drawn for one crop."""

    size: int  # px of its sides
    box: Box
    flip: bool
    colour: Colour


class Views(NamedTuple):
    """The crops of one image, uint8, channels last."""

    global_crops: np.ndarray  # [2, S, S, C]
    local_crops: np.ndarray  # [L, s, s, C]
    colours: np.ndarray  # fp32 [2 + L, 8], changes of colour that are left to do; [0, 8] where none are


def multi_crop(picture: Picture, config: Crops, rng: np.random.Generator) -> Views:
    """All crops of one image.

    Raises:
        ValueError: it cannot be decoded.
    """
    crops = draw_crops(picture.width, picture.height, config, rng)
    reduction = picture.can_reduce(spare_scale(crops))
    pixels = picture.decode(reduction)
    found = [cut(pixels, crop, reduction) for crop in crops]
    left = np.array([crop.colour for crop in crops], dtype=np.float32)
    if config.augment == "worker":
        found = [coloured(x, crop.colour) for x, crop in zip(found, crops, strict=True)]
        left = left[:0]
    empty = np.empty((0, config.local_size, config.local_size, pixels.shape[-1]), dtype=np.uint8)
    return Views(np.stack(found[:2]), np.stack(found[2:]) if found[2:] else empty, left)


def draw_crops(width: int, height: int, config: Crops, rng: np.random.Generator) -> list[Crop]:
    """What is done for each crop of a picture of this size: the two global ones first."""
    first, second, local = BLUR[config.blur]
    plan = [
        (config.global_size, config.global_scale, first, 0.0),
        (config.global_size, config.global_scale, second, SOLARISE),
    ]
    plan += [(config.local_size, config.local_scale, local, 0.0)] * config.num_local
    return [
        Crop(size, random_box(width, height, scale, rng), rng.random() < FLIP, draw_colour(blur, solarise, rng))
        for size, scale, blur, solarise in plan
    ]


def spare_scale(crops: list[Crop]) -> float:
    """By how much the picture may be reduced so that no crop has to be magnified, or more than it has to be anyway."""
    return min(min(right - left, bottom - top) / size for size, (left, top, right, bottom), _, _ in crops)


def cut(pixels: np.ndarray, crop: Crop, reduction: int = 1) -> np.ndarray:
    """A crop of a picture, resized (bicubic, antialiased, as torchvision does it) and perhaps flipped.

    Args:
        pixels: uint8 [H, W, C], reduced.
        crop: its box is in px of the whole picture.
        reduction: a box goes to whole px outwards.

    Returns:
        uint8 [size, size, C].
    """
    left, top, right, bottom = crop.box
    box = pixels[top // reduction : -(-bottom // reduction), left // reduction : -(-right // reduction)]
    planes = torch.from_numpy(box)[None].permute(0, 3, 1, 2).split(_FAST_CHANNELS, dim=1)
    resized = [F.interpolate(plane, (crop.size, crop.size), mode="bicubic", antialias=True) for plane in planes]
    found = (torch.cat(resized, dim=1) if resized[1:] else resized[0])[0].permute(1, 2, 0).numpy()
    return cv2.flip(found, 1).reshape(found.shape) if crop.flip else found


def random_box(width: int, height: int, scale: tuple[float, float], rng: np.random.Generator) -> Box:
    """A box of random area and aspect 3/4 to 4/3, as torchvision's RandomResizedCrop."""
    log_aspect = math.log(4 / 3)
    for _ in range(10):
        area, aspect, x, y = rng.random(4).tolist()
        area = width * height * (scale[0] + (scale[1] - scale[0]) * area)
        aspect = math.exp(log_aspect * (2 * aspect - 1))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(x * (width - w + 1)), int(y * (height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def normalise(crops: Tensor, pixels: Pixels) -> Tensor:
    """uint8 [B, S, S, C] to normalised fp32 [B, C, S, S], on the device of ``crops``."""
    mean, std = (_kept(values, crops.device) for values in (pixels.mean, pixels.std))
    return ((crops.float() / 255 - mean) / std).permute(0, 3, 1, 2)


@functools.cache
def _kept(values: tuple[float, ...], device: torch.device) -> Tensor:
    """A constant on a device, brought there once: to bring it waits for all that the device has to do."""
    return torch.tensor(values, device=device)
