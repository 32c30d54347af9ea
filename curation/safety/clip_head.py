"""A score for the whole picture by a small head on the vectors of an image encoder, as LAION scores its images."""

import re
from collections.abc import Mapping

import numpy as np
import safetensors
import safetensors.numpy
from PIL import Image

from curation.descriptors.loading import load_embedder
from curation.safety.base import Detection, DetectorSpec, digest_of
from curation.weights import read_weights

Layer = tuple[np.ndarray, np.ndarray]  # [out, in] and [out]
_NAME = re.compile(r"(?:.*\.)?(\d+)\.(weight|bias)|(weight|bias)")


class ClipHead:
    """A ``Detector`` that always has one finding without a box: the label, and the head's score.

    The head is linear layers with a ReLU between two, and a sigmoid at the end, on the encoder's vector of unit length.
    """

    name = "clip_head"

    def __init__(self, spec: DetectorSpec) -> None:
        path, sha256, self.licence, self.version = spec.file
        assert spec.encoder is not None
        self.labels = spec.labels
        self._label = spec.label
        data = read_weights(path, sha256)
        try:
            tensors = safetensors.numpy.load(data)
        except safetensors.SafetensorError as error:
            raise ValueError(f"weights {path} are no safetensors: {error}") from error
        self._encoder = load_embedder(spec.encoder.model_copy(update={"batch_size": 1}))
        self._layers = _layers(path, tensors, self._encoder.dim)
        self.digest = digest_of(spec, self._encoder.digest)

    def detect(self, pixels: np.ndarray) -> list[Detection]:
        """The score of [h, w, 3] uint8 RGB."""
        values = self._encoder.embed(self._encoder.preprocess(Image.fromarray(pixels))[None])[0].astype(np.float64)
        for number, (weight, bias) in enumerate(self._layers):
            values = weight @ (np.maximum(values, 0) if number else values) + bias
        score = 1 / (1 + np.exp(-float(values[0])))
        return [Detection(self._label, 1.0 if np.isnan(score) else score, None)]


def _layers(path: str, tensors: Mapping[str, np.ndarray], dim: int) -> list[Layer]:
    """The layers in order, from names such as ``weight``, ``0.weight`` or ``layers.3.bias``.

    Raises:
        ValueError: the tensors are no chain of linear layers from ``dim`` numbers to one.
    """
    found: dict[int, dict[str, np.ndarray]] = {}
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"weights {path} hold {name!r}; a head has only N.weight and N.bias")
        found.setdefault(int(match[1] or 0), {})[match[2] or match[3]] = tensor.astype(np.float64)
    layers = [(part.get("weight", np.empty(0)), part.get("bias", np.empty(0))) for _, part in sorted(found.items())]
    sizes = [dim, *(len(bias) for _, bias in layers)]
    fits = all(w.shape == (after, before) for (w, _), before, after in zip(layers, sizes, sizes[1:], strict=False))
    if not layers or not fits or sizes[-1] != 1:
        shapes = ", ".join(f"{name} {tensor.shape}" for name, tensor in sorted(tensors.items()))
        raise ValueError(f"weights {path} are no chain of linear layers from {dim} numbers to 1: {shapes or 'empty'}")
    return layers
