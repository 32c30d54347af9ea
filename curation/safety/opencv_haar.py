"""Frontal faces by the cascade of Haar features that comes with OpenCV (Viola and Jones, 2001)."""

import hashlib
from pathlib import Path

import cv2
import numpy as np

from curation.safety.base import FACE, Detection, DetectorSpec, digest_of
from curation.safety.pixels import scaled_to, to_original

CASCADE = "haarcascade_frontalface_default.xml"
SCALE_STEP = 1.1  # between the sizes at which the cascade looks
SMALLEST_SIDE = 24  # of a face, in pixels of the scaled picture: what the cascade was trained on
EVEN_HITS = 6  # overlapping hits that give a score of 0.5


class OpencvHaar:
    """A ``Detector`` of frontal faces; the score is n / (n + 6) for n overlapping hits of the cascade.

    The cascade gives no probability; a face is hit at many neighbouring places and sizes, a chance pattern at few.
    """

    name = "opencv_haar"
    version = cv2.__version__
    licence = "BSD-3-Clause"  # Intel's, in the head of the cascade's file
    labels: tuple[str, ...] = (FACE,)

    def __init__(self, spec: DetectorSpec) -> None:
        path = Path(cv2.__file__).parent / "data" / CASCADE
        self._cascade = cv2.CascadeClassifier(str(path))
        assert not self._cascade.empty(), f"OpenCV does not read its own {path}"
        weights = hashlib.sha256(path.read_bytes()).hexdigest()
        self.digest = digest_of(spec, weights, self.version)
        self._spec = spec

    def detect(self, pixels: np.ndarray) -> list[Detection]:
        """Frontal faces of [h, w, 3] uint8 RGB."""
        small = scaled_to(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), self._spec.input_side)
        least = max(1, int(np.ceil(EVEN_HITS * self._spec.threshold / (1 - self._spec.threshold))))
        smallest = (SMALLEST_SIDE, SMALLEST_SIDE)
        boxes, hits = self._cascade.detectMultiScale2(small, SCALE_STEP, least, minSize=smallest)
        return sorted(
            Detection(FACE, int(n) / (int(n) + EVEN_HITS), to_original(box, small, pixels))
            for box, n in zip(boxes, hits, strict=True)
        )
