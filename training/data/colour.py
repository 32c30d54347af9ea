"""Changes of colour: what is drawn for a crop, and how a worker applies it, on 8-bit integers throughout.

``training.data.colour_on_device`` applies the same to a batch.
"""

import itertools
from typing import NamedTuple

import cv2
import numpy as np

JITTER, GREY, SOLARISE = 0.8, 0.2, 0.2  # probabilities
BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.4, 0.4, 0.2, 0.1  # largest change; of the hue in turns
BLUR_SIGMA = (0.1, 2.0)  # px
BLUR_SIDE = 9  # px of the kernel
ORDERS = tuple(itertools.permutations(range(4)))  # of brightness, contrast, saturation, hue
_LEVELS = np.arange(256, dtype=np.float64)
_SOLARISED = np.where(_LEVELS >= 128, 255 - _LEVELS, _LEVELS).astype(np.uint8)
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


class Colour(NamedTuple):
    """What is done to one crop, all numbers, so that many make an array."""

    order: int  # number in ORDERS of the four changes of a jitter; -1: none
    brightness: float  # factors
    contrast: float
    saturation: float
    hue: float  # turns to add
    grey: bool
    sigma: float  # of a blur, px; 0: none
    solarise: bool


def draw_colour(blur: float, solarise: float, rng: np.random.Generator) -> Colour:
    """One crop's changes.

    Args:
        blur: probability of a Gaussian blur.
        solarise: probability of solarisation.
        rng: the generator of this image; always advanced by as much.
    """
    u = rng.random(10).tolist()
    low, high = BLUR_SIGMA
    return Colour(
        order=int(u[1] * len(ORDERS)) if u[0] < JITTER else -1,
        brightness=1 + BRIGHTNESS * (2 * u[2] - 1),
        contrast=1 + CONTRAST * (2 * u[3] - 1),
        saturation=1 + SATURATION * (2 * u[4] - 1),
        hue=HUE * (2 * u[5] - 1),
        grey=u[6] < GREY,
        sigma=low + (high - low) * u[8] if u[7] < blur else 0.0,
        solarise=u[9] < solarise,
    )


def coloured(x: np.ndarray, colour: Colour) -> np.ndarray:
    """Apply it as upstream does: jitter, grey, blur, solarise.

    Saturation, hue and grey are for RGB; where there are other channels than three, they do nothing.

    Args:
        x: uint8 [H, W, C].
        colour: the changes.
    """
    shape = x.shape
    if colour.order >= 0:
        for change in ORDERS[int(colour.order)]:
            x = _CHANGES[change](x, colour[1 + change])
    if colour.grey and shape[-1] == 3:
        x = cv2.cvtColor(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if colour.sigma:
        kernel = cv2.getGaussianKernel(BLUR_SIDE, colour.sigma, cv2.CV_32F)  # twice as fast as cv2.GaussianBlur
        x = cv2.sepFilter2D(x, cv2.CV_8U, kernel, kernel, borderType=cv2.BORDER_REFLECT_101)
    if colour.solarise:
        x = cv2.LUT(x, _SOLARISED)
    return x.reshape(shape)  # OpenCV drops a single channel


def brightened(x: np.ndarray, factor: float) -> np.ndarray:
    """All values times a factor."""
    return cv2.LUT(x, _table(factor * _LEVELS))


def contrasted(x: np.ndarray, factor: float) -> np.ndarray:
    """Further from or nearer to the mean luma; channels that are not RGB, to the mean of each."""
    if x.ndim == 3 and x.shape[-1] == 3:
        mean = cv2.mean(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY))[0]
        return cv2.LUT(x, _table(factor * _LEVELS + (1 - factor) * mean))
    means = x.reshape(-1, x.shape[-1] if x.ndim == 3 else 1).mean(axis=0, dtype=np.float64)
    tables = [_table(factor * _LEVELS + (1 - factor) * mean) for mean in means]
    return np.dstack([table[plane] for table, plane in zip(tables, np.moveaxis(np.atleast_3d(x), -1, 0), strict=True)])


def saturated(x: np.ndarray, factor: float) -> np.ndarray:
    """RGB further from or nearer to its luma."""
    if x.ndim != 3 or x.shape[-1] != 3:
        return x
    return cv2.transform(x, np.float32(factor) * np.eye(3, dtype=np.float32) + np.float32(1 - factor) * _LUMA)


def turned(x: np.ndarray, turns: float) -> np.ndarray:
    """RGB with another hue; 256 steps make a turn, as in Pillow."""
    step = round(256 * turns) % 256
    if x.ndim != 3 or x.shape[-1] != 3 or not step:
        return x
    hsv = cv2.cvtColor(x, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(step)  # wraps around
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


_CHANGES = (brightened, contrasted, saturated, turned)


def _table(levels: np.ndarray) -> np.ndarray:
    return np.rint(levels.clip(0, 255)).astype(np.uint8)
