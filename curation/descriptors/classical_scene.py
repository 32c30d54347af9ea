"""A hand-made scene descriptor: two pictures with a high cosine have like colours, textures and layout.

It is a classical stand-in for a self-supervised ViT: give trained weights (``adapter: timm``) for a real release.
Three parts of equal weight, each the square root of histograms (Hellinger kernel) less its mean, so that unrelated
pictures have a cosine near 0: colour in CIELAB, oriented edge energy at three scales (texture), and both on a
2 x 2 grid (layout).
"""

import hashlib
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from curation.descriptors.base import unit

_VERSION = "classical_scene/1"
_SIDE = 128
_NUM_DIRECTIONS = 8
_NUM_SCALES = 3
_NUM_TINTS = 6  # bins a chroma axis
_NUM_LIGHTS = 8
_CELLS = [np.s_[:, :], np.s_[:64, :64], np.s_[:64, 64:], np.s_[64:, :64], np.s_[64:, 64:]]
_TEXTURE_DIM = _NUM_DIRECTIONS * _NUM_SCALES * 2
_COLOUR_DIM = _NUM_TINTS**2 + _NUM_LIGHTS


class ClassicalScene:
    """An ``Embedder`` for clustering and retrieval."""

    name = _VERSION
    dim = len(_CELLS) * (_TEXTURE_DIM + _COLOUR_DIM)
    kind: Literal["classical", "trained"] = "classical"
    digest = hashlib.sha256(_VERSION.encode()).hexdigest()
    batch_size = 16
    min_side: int | None = None

    def preprocess(self, image: Image.Image) -> np.ndarray:
        """RGB picture to its [dim] float32 description; all the work is done here, picture by picture."""
        shrinks = min(image.size) >= _SIDE
        pixels = cv2.resize(
            np.asarray(image.convert("RGB")),
            (_SIDE, _SIDE),
            interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
        )
        lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)
        maps = _edge_energies(lab[..., 0].astype(np.float32))
        weights = [1.0] + [0.5] * (len(_CELLS) - 1)  # the whole counts as much as its four quarters
        parts = [
            w * p for cell, w in zip(_CELLS, weights, strict=True) for p in (_texture(maps, cell), _colour(lab[cell]))
        ]
        return np.concatenate(parts).astype(np.float32)

    def embed(self, batch: np.ndarray) -> np.ndarray:
        """[n, dim] descriptions to unit length."""
        return unit(batch)


def _edge_energies(light: np.ndarray) -> list[np.ndarray]:
    """[h, w] to one [directions, h, w] map a scale: gradient magnitude shared between the two nearest directions."""
    maps = []
    for scale in range(_NUM_SCALES):
        smooth = cv2.GaussianBlur(light, (0, 0), 0.8 * 2**scale)
        dx, dy = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
        place = (np.arctan2(dy, dx) % np.pi) * (_NUM_DIRECTIONS / np.pi)
        lower = np.floor(place).astype(int) % _NUM_DIRECTIONS
        share = place - np.floor(place)
        strength = np.hypot(dx, dy)
        bins = np.arange(_NUM_DIRECTIONS)[:, None, None]
        maps.append(strength * ((lower == bins) * (1 - share) + ((lower + 1) % _NUM_DIRECTIONS == bins) * share))
    return maps


def _texture(maps: list[np.ndarray], cell: tuple[slice, slice]) -> np.ndarray:
    """Mean and spread of the edge energies, [_TEXTURE_DIM] of unit length after centring."""
    values = []
    for energies in maps:
        inside = energies[(slice(None), *cell)].reshape(_NUM_DIRECTIONS, -1).astype(np.float64)
        values += [np.sqrt(inside.mean(axis=1)), np.sqrt(inside.std(axis=1))]
    return _centred(np.concatenate(values))


def _colour(lab: np.ndarray) -> np.ndarray:
    """Histograms of tint and of lightness, [_COLOUR_DIM] of unit length after centring."""
    tints = np.clip((lab[..., 1:].astype(np.float64) - 128) / 80 + 0.5, 0, 1)
    tint, _, _ = np.histogram2d(tints[..., 0].ravel(), tints[..., 1].ravel(), _NUM_TINTS, [[0, 1], [0, 1]])
    light, _ = np.histogram(lab[..., 0], _NUM_LIGHTS, (0, 256))
    num_pixels = lab[..., 0].size
    return _centred(np.concatenate([np.sqrt(tint.ravel() / num_pixels), np.sqrt(light / num_pixels)]))


def _centred(values: np.ndarray) -> np.ndarray:
    return unit((values - values.mean())[None])[0]
