"""From a picture to the smaller one that a detector looks at, and its boxes back."""

from collections.abc import Sequence

import cv2
import numpy as np

from curation.safety.base import Box


def scaled_to(pixels: np.ndarray, longest_side: int) -> np.ndarray:
    """A picture whose longer side is the given one; a smaller picture is left at its size.

    Args:
        pixels: [h, w] or [h, w, 3] uint8.
        longest_side: in pixels.
    """
    height, width = pixels.shape[:2]
    scale = longest_side / max(height, width)
    if scale >= 1:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def to_original(box: Sequence[float], scaled: np.ndarray, original: np.ndarray) -> Box:
    """A box of the scaled picture in whole pixels of the original, held within it and at least one pixel large."""
    x, y, width, height = (float(value) for value in box)
    step_x = original.shape[1] / scaled.shape[1]
    step_y = original.shape[0] / scaled.shape[0]
    left, right = _within(x * step_x, (x + width) * step_x, original.shape[1])
    top, bottom = _within(y * step_y, (y + height) * step_y, original.shape[0])
    return left, top, right - left, bottom - top


def _within(start: float, end: float, length: int) -> tuple[int, int]:
    """The span rounded outwards, of at least one pixel, inside [0, length]."""
    first = min(max(0, int(np.floor(start))), length - 1)
    return first, max(first + 1, min(length, int(np.ceil(end))))
