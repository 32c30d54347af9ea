"""Faces by YuNet, a small network (Wu et al., 2023), from an ONNX file of OpenCV's zoo or of its authors."""

from typing import Any

import cv2
import numpy as np

from curation.safety.base import FACE, Detection, DetectorSpec, digest_of
from curation.safety.pixels import scaled_to, to_original
from curation.weights import read_weights

OVERLAP = 0.3  # intersection over union above which two boxes are one face
CANDIDATES = 5000  # boxes before those of one face are joined


class Yunet:
    """A ``Detector`` of faces, in profile too, from about 10 pixels of the scaled picture."""

    name = "yunet"

    def __init__(self, spec: DetectorSpec) -> None:
        path, sha256, self.licence, self.version = spec.file
        self.labels = spec.labels
        self.digest = digest_of(spec)
        self._side = spec.input_side
        buffer = np.frombuffer(read_weights(path, sha256), np.uint8)
        nothing = np.empty(0, np.uint8)  # where other frameworks keep their graph, ONNX has it in the weights
        try:
            self._network: Any = cv2.FaceDetectorYN.create(
                "onnx", buffer, nothing, (32, 32), spec.threshold, OVERLAP, CANDIDATES
            )
            self.detect(np.zeros((64, 64, 3), np.uint8))
        except cv2.error as error:
            raise ValueError(f"weights {path} are no YuNet that OpenCV reads: {error.err}") from error

    def detect(self, pixels: np.ndarray) -> list[Detection]:
        """Faces of [h, w, 3] uint8 RGB."""
        small = scaled_to(pixels, self._side)
        self._network.setInputSize((small.shape[1], small.shape[0]))
        _, found = self._network.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        rows = [] if found is None else found.tolist()  # x, y, width, height, five landmarks, score
        return sorted(Detection(FACE, min(1.0, row[14]), to_original(row[:4], small, pixels)) for row in rows)
