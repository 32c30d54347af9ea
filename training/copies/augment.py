"""Copies as people make them: crops, turns, recolouring, blur, JPEG, text, frames, collages, screenshots.

Everything works on uint8 RGB arrays [height, width, 3] with OpenCV, and draws from the generator it is given.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from training.copies.config import Edits

Pixels = np.ndarray  # uint8 [height, width, 3], RGB
LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 !?#&"))
FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_SCRIPT_SIMPLEX)


def views(
    sources: Sequence[Pixels],
    backgrounds: Sequence[Pixels],
    edits: Edits,
    strength: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Two views of each source; some of the second ones are mixed with another source's.

    Args:
        sources: regions of pictures.
        backgrounds: as many other pictures, for copies put on one.
        edits: how often and how far.
        strength: 0 to 1, scales the probability of every edit.
        rng: decides everything else.

    Returns:
        uint8 [2n, size, size, 3], the first views before the second ones, and their contents, int64 [2n, 2].
    """
    num = len(sources)
    first = [
        mild(source, edits.size, rng) if rng.random() < edits.mild else strong(source, background, edits, strength, rng)
        for source, background in zip(sources, backgrounds, strict=True)
    ]
    second = [
        strong(source, background, edits, strength, rng)
        for source, background in zip(sources, reversed(backgrounds), strict=True)
    ]
    contents = np.tile(np.arange(num, dtype=np.int64)[:, None], (2, 2))
    plain = list(second)
    for i in range(num):
        if rng.random() < edits.mixed * strength:
            other = (i + num // 2) % num
            second[i] = mix(plain[i], plain[other], rng)
            contents[num + i, 1] = other
    return np.stack(first + second), contents


def halves(picture: Pixels, rng: np.random.Generator) -> list[Pixels]:
    """Two disjoint parts of a picture, cut across its longer side near the middle."""
    height, width = picture.shape[:2]
    at = rng.uniform(0.42, 0.58)
    if width >= height:
        return [picture[:, : round(at * width)], picture[:, round(at * width) :]]
    return [picture[: round(at * height)], picture[round(at * height) :]]


def mix(one: Pixels, other: Pixels, rng: np.random.Generator) -> Pixels:
    """CutMix or MixUp of two views of equal size, each with a share that can be seen."""
    size = len(one)
    share = rng.uniform(0.3, 0.7)
    if rng.random() < 0.5:
        return cv2.addWeighted(one, share, other, 1 - share, 0)
    height = round(size * rng.uniform(math.sqrt(share), 1))
    width = min(size, round(size * size * share / height))
    top, left = int(rng.integers(size - height + 1)), int(rng.integers(size - width + 1))
    mixed = one.copy()
    mixed[top : top + height, left : left + width] = other[top : top + height, left : left + width]
    return mixed


def mild(source: Pixels, size: int, rng: np.random.Generator) -> Pixels:
    """A picture as it is first put online: hardly cropped, squashed to ``size``."""
    return _squash(_crop(source, rng.uniform(0.8, 1), rng), size)


def strong(source: Pixels, background: Pixels, edits: Edits, strength: float, rng: np.random.Generator) -> Pixels:
    """A copy under several edits at once, squashed to ``size``."""
    size = edits.size

    def chance(probability: float) -> bool:
        return bool(rng.random() < probability * strength)

    picture = source
    if chance(0.3):
        picture = turn(picture, rng)
    if rng.random() < 0.75:
        picture = _crop(picture, edits.least_area ** (strength * rng.random()), rng)
    picture = _squash(picture, size)
    if rng.random() < 0.5:
        picture = picture[:, ::-1]
    if chance(0.1):
        picture = picture[::-1]
    if chance(0.07):
        picture = np.rot90(picture, 2 * int(rng.integers(2)) + 1)
    picture = np.ascontiguousarray(picture)
    if chance(0.5):
        picture = recolour(picture, rng)
    if chance(0.35):
        picture = degrade(picture, rng)
    if chance(0.3):
        picture = put_on(picture, background, rng)
    if chance(0.25):
        picture = decorate(picture, rng)
    if chance(0.4):
        picture = jpeg(picture, int(rng.integers(15, 80)))
    return picture


def turn(picture: Pixels, rng: np.random.Generator) -> Pixels:
    """Rotation up to 30 degrees and a change of perspective, within the same frame."""
    height, width = picture.shape[:2]
    angle = math.radians(rng.uniform(-30, 30))
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (width / 2, height / 2)
    rotation = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    moved = corners @ rotation * rng.uniform(0.85, 1.15) + rng.normal(0, 0.05, (4, 2)) * min(height, width)
    centre = np.array([width / 2, height / 2])
    before, after = (np.asarray(points + centre, np.float32) for points in (corners, moved))
    matrix = cv2.getPerspectiveTransform(before, after)
    border = (cv2.BORDER_CONSTANT, cv2.BORDER_REPLICATE, cv2.BORDER_REFLECT)[rng.integers(3)]
    return cv2.warpPerspective(picture, matrix, (width, height), borderMode=border, borderValue=_colour(rng))


def recolour(picture: Pixels, rng: np.random.Generator) -> Pixels:
    """Brightness, contrast, gamma and tint by a table; saturation and hue by a matrix; grey; negative."""
    ramp = np.linspace(0, 1, 256)[:, None]
    ramp = ramp ** math.exp(rng.normal(0, 0.3)) * np.exp(rng.normal(0, 0.2)) * np.exp(rng.normal(0, 0.1, 3))
    ramp = (ramp - 0.5) * math.exp(rng.normal(0, 0.3)) + 0.5
    if rng.random() < 0.12:
        ramp = 1 - ramp
    picture = cv2.LUT(picture, np.rint(ramp.clip(0, 1) * 255).astype(np.uint8)[:, None, :])
    if rng.random() < 0.5:
        grey = np.full((3, 3), 1 / 3)
        saturation = 0.0 if rng.random() < 0.3 else rng.uniform(0.3, 2)
        permuted = np.eye(3)[rng.permutation(3)] if rng.random() < 0.2 else np.eye(3)
        picture = cv2.transform(picture, grey + saturation * (permuted - grey))
    return picture


def degrade(picture: Pixels, rng: np.random.Generator) -> Pixels:
    """One of blur, loss of resolution, noise."""
    size = len(picture)
    kind = rng.integers(3)
    if kind == 0:
        return cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 2.5) * size / 96)
    if kind == 1:
        small = cv2.resize(picture, (round(size * rng.uniform(0.2, 0.7)),) * 2, interpolation=cv2.INTER_AREA)
        return cv2.resize(small, (size, size), interpolation=(cv2.INTER_NEAREST, cv2.INTER_LINEAR)[rng.integers(2)])
    noise = rng.standard_normal(picture.shape, dtype=np.float32) * rng.uniform(4, 30)
    return (picture + noise).clip(0, 255).astype(np.uint8)


def put_on(picture: Pixels, background: Pixels, rng: np.random.Generator) -> Pixels:
    """The copy within a page, a frame or another picture, on 25 to 90 % of it."""
    size = len(picture)
    canvas = _squash(background, size) if rng.random() < 0.6 else np.full_like(picture, _colour(rng))
    width, height = (np.sqrt(rng.uniform(0.25, 0.9)) * np.exp(rng.normal(0, 0.1, 2)) * size).clip(16, size)
    width, height = round(width), round(height)
    left, top = int(rng.integers(size - width + 1)), int(rng.integers(size - height + 1))
    small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    if rng.random() < 0.2:
        under = np.ascontiguousarray(canvas[top : top + height, left : left + width])
        small = cv2.addWeighted(small, 0.7, under, 0.3, 0)
    canvas[top : top + height, left : left + width] = small
    return canvas


def decorate(picture: Pixels, rng: np.random.Generator) -> Pixels:
    """Lines of text, or filled shapes."""
    size = len(picture)
    picture = picture.copy()
    for _ in range(int(rng.integers(1, 4))):
        x, y = (int(v) for v in rng.integers(0, size, 2))
        if rng.random() < 0.7:
            text = "".join(rng.choice(LETTERS, int(rng.integers(3, 14))))
            font, scale = FONTS[rng.integers(len(FONTS))], float(rng.uniform(0.3, 1.4) * size / 96)
            place = (x - size // 3, y)
            cv2.putText(picture, text, place, font, scale, _colour(rng), int(rng.integers(1, 4)), cv2.LINE_AA)
        elif rng.random() < 0.5:
            cv2.circle(picture, (x, y), int(size * rng.uniform(0.05, 0.25)), _colour(rng), -1)
        else:
            corner = (x + int(size * rng.uniform(0.1, 0.5)), y + int(size * rng.uniform(0.1, 0.4)))
            cv2.rectangle(picture, (x, y), corner, _colour(rng), -1)
    return picture


def jpeg(picture: Pixels, quality: int) -> Pixels:
    """Encoded and decoded again."""
    encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))


def _crop(picture: Pixels, area: float, rng: np.random.Generator) -> Pixels:
    height, width = picture.shape[:2]
    aspect = math.exp(rng.uniform(-0.3, 0.3))
    crop_height = max(8, round(height * min(1, math.sqrt(area / aspect))))
    crop_width = max(8, round(width * min(1, math.sqrt(area * aspect))))
    top = int(rng.integers(max(1, height - crop_height + 1)))
    left = int(rng.integers(max(1, width - crop_width + 1)))
    return picture[top : top + crop_height, left : left + crop_width]


def _squash(picture: Pixels, size: int) -> Pixels:
    shrinks = min(picture.shape[:2]) > size
    return cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _colour(rng: np.random.Generator) -> tuple[int, ...]:
    """Black, white or any."""
    kind = rng.integers(3)
    return (0, 0, 0) if kind == 0 else (255, 255, 255) if kind == 1 else tuple(int(v) for v in rng.integers(0, 256, 3))
