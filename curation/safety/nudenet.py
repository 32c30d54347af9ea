"""Nudity and faces by the ``nudenet`` package. It is AGPL-3.0 and an extra: pip install "openlvd[safety]"."""

import hashlib
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from curation.safety.base import FACE, NSFW, Detection, DetectorSpec, digest_of
from curation.safety.pixels import to_original

WEIGHTS = "320n.onnx"  # the network that the package carries
FACES = ("FACE_FEMALE", "FACE_MALE")
UNSAFE = (
    "FEMALE_GENITALIA_EXPOSED", "MALE_GENITALIA_EXPOSED", "FEMALE_BREAST_EXPOSED", "BUTTOCKS_EXPOSED", "ANUS_EXPOSED",
)  # fmt: skip


class Nudenet:
    """A ``Detector`` of faces, with boxes, and of exposed parts: one ``nsfw`` finding of the highest score, or of 0."""

    name = "nudenet"
    licence = "AGPL-3.0"

    def __init__(self, spec: DetectorSpec) -> None:
        package = find_spec("nudenet")
        if package is None or package.origin is None:
            raise ValueError('the adapter nudenet needs an extra: pip install "openlvd[safety]" (it is AGPL-3.0)')
        from nudenet import NudeDetector

        self.version = version("nudenet")
        self.labels = spec.labels
        self._threshold = spec.threshold
        path = Path(package.origin).parent / WEIGHTS
        self._network: Any = NudeDetector(model_path=str(path))
        self.digest = digest_of(spec, hashlib.sha256(path.read_bytes()).hexdigest(), self.version)

    def detect(self, pixels: np.ndarray) -> list[Detection]:
        """Faces, and how unsafe [h, w, 3] uint8 RGB is."""
        parts = self._network.detect(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
        faces = [
            Detection(FACE, float(part["score"]), to_original(part["box"], pixels, pixels))
            for part in parts
            if part["class"] in FACES and part["score"] >= self._threshold
        ]
        unsafe = max((float(part["score"]) for part in parts if part["class"] in UNSAFE), default=0.0)
        return [*sorted(faces), Detection(NSFW, unsafe, None)]
