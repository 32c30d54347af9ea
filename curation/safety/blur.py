"""Make regions of a picture unrecognisable, look again, and encode what remains.

A region keeps its colours and loses its detail: a few means a side, smoothed. The means are all that is left of it, so
there is nothing to sharpen again. DINOv2 (paper, section 3) blurs identifiable faces and does not say how.
"""

import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image

from curation.safety.base import Box

CELLS = 4  # means along the shorter side of a region; with 8, OpenCV's cascade finds one face in five again
MARGIN = 0.25  # of a box's width and height, added on each side: detectors frame the face from brow to lip
FINENESS = 16  # pixels a mean that the smoothing works on; it is seamless from there, and its cost grows no further
ROUNDS = 4  # of blurring before a picture is given up

_ENCODINGS: dict[str, dict[str, Any]] = {  # format, as the decoder names it -> Pillow's options
    "JPEG": {"quality": 95, "subsampling": 0},
    "PNG": {"compress_level": 6},
    "WEBP": {"quality": 95, "method": 4},
    "AVIF": {"quality": 90, "speed": 6, "max_threads": 1},
    "BMP": {},
    "TIFF": {"compression": "tiff_lzw"},
    "GIF": {},
}


class StillFoundError(ValueError):
    """A detector finds something even after the last round of blurring."""


def blurred(pixels: np.ndarray, boxes: Iterable[Box], margin: float = MARGIN) -> np.ndarray:
    """A copy with every box, widened by the margin, reduced to a few smooth colours; the rest is untouched.

    Args:
        pixels: [h, w, 3] uint8.
        boxes: x, y, width, height in pixels; they may overlap and reach over the edge. Their order does not matter.
        margin: share of a box's width and height added on each side.

    Returns:
        [h, w, 3] uint8.
    """
    result = pixels.copy()
    height, width = pixels.shape[:2]
    for x, y, w, h in sorted(set(boxes)):
        more_x, more_y = int(np.ceil(w * margin)), int(np.ceil(h * margin))
        left, top = max(0, x - more_x), max(0, y - more_y)
        right, bottom = min(width, x + w + more_x), min(height, y + h + more_y)
        if left < right and top < bottom:
            result[top:bottom, left:right] = _unrecognisable(result[top:bottom, left:right])
    return result


def until_none_found(
    pixels: np.ndarray, boxes: Sequence[Box], find: Callable[[np.ndarray], Sequence[Box]]
) -> tuple[np.ndarray, list[Box], int]:
    """Blur, look again, and blur what is still found, wider every round.

    Args:
        pixels: [h, w, 3] uint8.
        boxes: what was found in them.
        find: the boxes that the detectors find in a picture; give it the encoding to be released too, and what is
            looked at is what will be seen.

    Returns:
        The blurred pixels, all boxes that were blurred in the order they were found, and the number of rounds;
        with no box, the pixels as they are and 0.

    Raises:
        StillFoundError: something is found after the last round.
    """
    all_boxes = list(boxes)
    result, rounds = pixels, 0
    found = all_boxes
    while found:
        if rounds == ROUNDS:
            raise StillFoundError(f"{len(found)} found after {ROUNDS} rounds of blurring, the first at {found[0]}")
        rounds += 1
        result = blurred(pixels, all_boxes, rounds * MARGIN)
        found = list(find(result))
        all_boxes += [box for box in found if box not in all_boxes]
    return result, all_boxes, rounds


def reencoded(pixels: np.ndarray, format_: str) -> bytes:
    """Pixels as a file of the given format, without metadata; the same pixels give the same bytes.

    Args:
        pixels: [h, w, 3] uint8, upright.
        format_: a name of ``curation.images.decode.FORMATS``.

    Raises:
        ValueError: a format that is not written.
    """
    if format_ not in _ENCODINGS:
        raise ValueError(f"format {format_!r} is not written; those that are: {', '.join(_ENCODINGS)}")
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format_, **_ENCODINGS[format_])
    return file.getvalue()


def _unrecognisable(region: np.ndarray) -> np.ndarray:
    height, width = region.shape[:2]
    cell = max(1.0, min(height, width) / CELLS)
    size = max(1, round(width / cell)), max(1, round(height / cell))
    means = cv2.resize(region, size, interpolation=cv2.INTER_AREA)
    # a kernel as wide as half a cell of a large face would cost the cube of the face's side
    small = min(width, FINENESS * size[0]), min(height, FINENESS * size[1])
    steps = cv2.resize(means, small, interpolation=cv2.INTER_LINEAR)
    smooth = cv2.GaussianBlur(steps, (0, 0), small[0] / size[0] / 2, sigmaY=small[1] / size[1] / 2)
    return cv2.resize(smooth, (width, height), interpolation=cv2.INTER_LINEAR)
