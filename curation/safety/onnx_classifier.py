"""A score for the whole picture by any image classifier in ONNX, run by OpenCV."""

import cv2
import numpy as np

from curation.safety.base import Detection, DetectorSpec, digest_of
from curation.weights import read_weights


class OnnxClassifier:
    """A ``Detector`` that always has one finding without a box: the label, and one of the network's outputs.

    The network takes [1, 3, size, size] float32, RGB, normalised by mean and std, and gives [1, k]. The picture is
    squashed to the square.
    """

    name = "onnx_classifier"

    def __init__(self, spec: DetectorSpec) -> None:
        path, sha256, self.licence, self.version = spec.file
        self.labels = spec.labels
        self.digest = digest_of(spec)
        self._spec = spec
        data = read_weights(path, sha256)
        try:
            self._network = cv2.dnn.readNetFromONNX(np.frombuffer(data, np.uint8))
            outputs = self._outputs(np.zeros((spec.size, spec.size, 3), np.uint8))
        except cv2.error as error:
            raise ValueError(f"weights {path}: OpenCV does not run them at size={spec.size}: {error.err}") from error
        if outputs.ndim != 2 or outputs.shape[1] <= spec.output:
            shape = " x ".join(map(str, outputs.shape))
            raise ValueError(f"weights {path} give {shape} numbers, which have no output={spec.output}")

    def detect(self, pixels: np.ndarray) -> list[Detection]:
        """The score of [h, w, 3] uint8 RGB."""
        score = _ACTIVATIONS[self._spec.activation](self._outputs(pixels)[0].astype(np.float64))[self._spec.output]
        return [Detection(self._spec.label, float(np.clip(np.nan_to_num(score, nan=1.0), 0, 1)), None)]

    def _outputs(self, pixels: np.ndarray) -> np.ndarray:
        spec = self._spec
        small = cv2.resize(pixels, (spec.size, spec.size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        normalised = (small - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32)
        self._network.setInput(np.ascontiguousarray(normalised.transpose(2, 0, 1)[None]))
        return np.asarray(self._network.forward())


def _softmax(outputs: np.ndarray) -> np.ndarray:
    powers = np.exp(outputs - outputs.max())
    return powers / powers.sum()


def _sigmoid(outputs: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-outputs))


_ACTIVATIONS = {"softmax": _softmax, "sigmoid": _sigmoid, "none": lambda outputs: outputs}
