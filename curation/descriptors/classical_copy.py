"""A hand-made copy descriptor: two pictures with a high cosine show the same photograph.

It is a classical stand-in for SSCD: give trained weights (``adapter: torchscript``) for a real release. Two parts,
each a kernel over pictures written as an inner product:

- *layout*: the low frequencies of the picture and of its middle, whitened as natural pictures need it (their
  amplitudes fall with frequency).
- *keypoints*: the sum over SIFT keypoints of random Fourier features, whose inner product counts the keypoints that two
  pictures share (Rahimi and Recht 2007; Bo and Sminchisescu 2009). It survives crops, turns and overlays. Its share
  of the similarity grows with the number of keypoints that differ from each other: stars all look alike.

Both are the same for a picture and its mirror image. Measured at a cosine above 0.5: none of 320,000 other pairs of
800 animal pictures, 22 of 133,000 pairs of distinct small tiles of 16 photographs; and 97 to 100 % of the tiles' copies
by JPEG, resizing, mirroring, tint, brightness and grey, 75 % of crops to 77 % of the area, 57 % with a bar over the
lower fifth. Crops to half, rotations and collages are beyond it.
"""

import hashlib
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from curation.descriptors.base import unit

_VERSION = "classical_copy/1"
_AREA = 256 * 256  # pixels that every picture is scaled to before keypoints are sought
_NUM_KEYPOINTS = 200  # the largest ones: they survive blur and rescaling
_NUM_WAVES = 384  # pairs of random Fourier features
_BANDWIDTH = 5.0  # of the Gaussian kernel between root-SIFT descriptors, as 1 / sigma
_LAYOUT_SIDE = 10  # frequencies kept in each direction
_LAYOUT_VIEWS = (1.0, 0.9, 0.8)  # the whole and its middle, by side: a picture and a tight crop share views
_KEYPOINT_SHARE = 0.6  # of the similarity, at most
_ENOUGH_KEYPOINTS = 40  # different ones, from which on that share is due


class ClassicalCopy:
    """An ``Embedder`` for near-duplicates; unrelated pictures have a cosine near 0."""

    name = _VERSION
    dim = 2 * _NUM_WAVES + _LAYOUT_SIDE**2
    kind: Literal["classical", "trained"] = "classical"
    digest = hashlib.sha256(_VERSION.encode()).hexdigest()
    batch_size = 16
    min_side: int | None = None

    def __init__(self) -> None:
        # the legacy generator is the one whose stream numpy promises never to change
        self._waves = np.random.RandomState(0).standard_normal((128, _NUM_WAVES)) * _BANDWIDTH

    def preprocess(self, image: Image.Image) -> np.ndarray:
        """RGB picture to its [dim] float32 description; all the work is done here, picture by picture."""
        grey = np.asarray(image.convert("L"))
        keypoints, num_different = self._keypoints(grey)
        share = _KEYPOINT_SHARE * min(1.0, num_different / _ENOUGH_KEYPOINTS)
        parts = np.sqrt(share) * unit(keypoints[None])[0], np.sqrt(1 - share) * unit(_layout(grey)[None])[0]
        return np.concatenate(parts).astype(np.float32)

    def embed(self, batch: np.ndarray) -> np.ndarray:
        """[n, dim] descriptions to unit length."""
        return unit(batch)

    def _keypoints(self, grey: np.ndarray) -> tuple[np.ndarray, float]:
        """[h, w] uint8 to the sum over keypoints, [2 * _NUM_WAVES], weighted by size, and how many differ."""
        scale = (_AREA / grey.size) ** 0.5
        size = [max(16, round(side * scale)) for side in grey.shape[::-1]]
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        keypoints, found = cv2.SIFT.create(nfeatures=400).detectAndCompute(grey, None)
        if found is None:
            return np.zeros(2 * _NUM_WAVES), 0.0
        sizes = np.array([k.size for k in keypoints], np.float64)
        largest = np.argsort(-sizes, kind="stable")[:_NUM_KEYPOINTS]
        histograms = found[largest].astype(np.float64)
        root = np.sqrt(histograms / np.maximum(histograms.sum(axis=1, keepdims=True), 1e-9))
        phases = np.stack([root, root[:, _MIRROR]]) @ self._waves
        features = np.concatenate([np.cos(phases), np.sin(phases)], axis=2).sum(axis=0)
        total = (features * sizes[largest, None]).sum(axis=0)
        # n keypoints without a like give a vector sqrt(n) times as long as one of them, n alike n times
        num_different = 2 * _NUM_WAVES * sizes[largest].sum() ** 2 / (total**2).sum()
        return total, float(num_different)


def _layout(grey: np.ndarray) -> np.ndarray:
    """[h, w] uint8 to [_LAYOUT_SIDE ** 2]: whitened cosine coefficients of all views, the mean left out.

    Mirroring turns the sign of the odd horizontal frequencies; they are turned so that the largest is positive.
    """
    waves = sum(unit(_whitened_waves(_middle(grey, share))[None])[0] for share in _LAYOUT_VIEWS)
    waves = np.asarray(waves).reshape(_LAYOUT_SIDE, _LAYOUT_SIDE)
    odd = waves[:, 1::2]
    if odd.flat[np.abs(odd).argmax()] < 0:
        odd *= -1
    return waves.ravel()


def _middle(grey: np.ndarray, share: float) -> np.ndarray:
    top, left = (round(side * (1 - share) / 2) for side in grey.shape)
    return grey[top : grey.shape[0] - top, left : grey.shape[1] - left]


def _whitened_waves(grey: np.ndarray) -> np.ndarray:
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    frequency = np.hypot(*np.mgrid[:_LAYOUT_SIDE, :_LAYOUT_SIDE])
    waves = cv2.dct(small)[:_LAYOUT_SIDE, :_LAYOUT_SIDE] * frequency**0.7
    return (np.sign(waves) * np.sqrt(np.abs(waves))).ravel()


# A SIFT histogram is 4 x 4 places of 8 directions; in the mirror image, places run backwards and directions turn round.
_MIRROR = np.arange(128).reshape(4, 4, 8)[::-1, :, (-np.arange(8)) % 8].ravel()
