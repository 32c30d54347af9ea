"""A hand-made copy descriptor: two pictures with a high cosine show the same photograph.

It is a classical stand-in for SSCD: give trained weights (``adapter: torchscript``) for a real release. Two parts,
each a kernel over pictures written as an inner product:

- *layout*: the low frequencies of the picture, whitened as natural pictures need it (amplitudes fall as 1 / frequency).
- *keypoints*: the sum over SIFT keypoints of random Fourier features, whose inner product counts the keypoints that two
  pictures share (Rahimi and Recht 2007; Bo and Sminchisescu 2009). It survives crops, turns and overlays.

Both are the same for a picture and its mirror image.
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
_LAYOUT_SIDE = 12  # frequencies kept in each direction
_KEYPOINT_SHARE = 0.5  # of the similarity


class ClassicalCopy:
    """An ``Embedder`` for near-duplicates; unrelated pictures have a cosine near 0."""

    name = _VERSION
    dim = 2 * _NUM_WAVES + _LAYOUT_SIDE**2
    kind: Literal["classical", "trained"] = "classical"
    digest = hashlib.sha256(_VERSION.encode()).hexdigest()

    def __init__(self) -> None:
        # the legacy generator is the one whose stream numpy promises never to change
        self._waves = np.random.RandomState(0).standard_normal((128, _NUM_WAVES)) * _BANDWIDTH

    def preprocess(self, image: Image.Image) -> np.ndarray:
        """RGB picture to its [dim] float32 description; all the work is done here, picture by picture."""
        grey = np.asarray(image.convert("L"))
        parts = unit(self._keypoints(grey)[None])[0], unit(_layout(grey)[None])[0]
        shares = np.sqrt([_KEYPOINT_SHARE, 1 - _KEYPOINT_SHARE])
        return np.concatenate([share * part for share, part in zip(shares, parts, strict=True)]).astype(np.float32)

    def embed(self, batch: np.ndarray) -> np.ndarray:
        """[n, dim] descriptions to unit length."""
        return unit(batch)

    def _keypoints(self, grey: np.ndarray) -> np.ndarray:
        """[h, w] uint8 to [2 * _NUM_WAVES]: the sum over keypoints, each weighted by its size."""
        scale = (_AREA / grey.size) ** 0.5
        size = [max(16, round(side * scale)) for side in grey.shape[::-1]]
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        keypoints, found = cv2.SIFT.create(nfeatures=400, contrastThreshold=0.02).detectAndCompute(grey, None)
        if found is None:
            return np.zeros(2 * _NUM_WAVES)
        sizes = np.array([k.size for k in keypoints], np.float64)
        largest = np.argsort(-sizes, kind="stable")[:_NUM_KEYPOINTS]
        histograms = found[largest].astype(np.float64)
        root = np.sqrt(histograms / np.maximum(histograms.sum(axis=1, keepdims=True), 1e-9))
        mirrored = root[:, _MIRROR]
        features = sum(
            np.concatenate([np.cos(r @ self._waves), np.sin(r @ self._waves)], axis=1) for r in (root, mirrored)
        )
        return (features * sizes[largest, None]).sum(axis=0)


def _layout(grey: np.ndarray) -> np.ndarray:
    """[h, w] uint8 to [_LAYOUT_SIDE ** 2]: whitened cosine coefficients, the mean left out.

    Mirroring turns the sign of the odd horizontal frequencies; they are turned so that the largest is positive.
    """
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    waves = cv2.dct(small)[:_LAYOUT_SIDE, :_LAYOUT_SIDE] * np.hypot(*np.mgrid[:_LAYOUT_SIDE, :_LAYOUT_SIDE])
    waves = np.sign(waves) * np.sqrt(np.abs(waves))
    odd = waves[:, 1::2]
    if odd.flat[np.abs(odd).argmax()] < 0:
        odd *= -1
    return waves.ravel()


# A SIFT histogram is 4 x 4 places of 8 directions; in the mirror image, places run backwards and directions turn round.
_MIRROR = np.arange(128).reshape(4, 4, 8)[::-1, :, (-np.arange(8)) % 8].ravel()
