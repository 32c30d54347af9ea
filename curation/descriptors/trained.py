"""What the trained embedders share: weights by hash, pixels, and one network on one device."""

from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from conf import digest
from curation.descriptors.base import EmbedderSpec, unit


class TrainedEmbedder:
    """An ``Embedder`` over a network that maps [n, 3, size, size] to [n, dim]."""

    kind: Literal["classical", "trained"] = "trained"

    def __init__(self, name: str, network: Any, spec: EmbedderSpec) -> None:
        self.name = name
        self.digest = digest(spec.model_copy(update={"weights": None}))  # the file's hash counts, not its place
        self._spec = spec
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._network = network.eval().to(self._device)
        blank = np.zeros((1, 3, spec.size, spec.size), np.float32)
        try:
            shape = self._run(blank).shape
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"{name} does not take pictures of size = {spec.size}: {error}") from error
        if len(shape) != 2:
            raise ValueError(f"{name} gives {shape[1:]} for a picture, not one vector; use a model with pooled output")
        self.dim = int(shape[1])

    def preprocess(self, image: Image.Image) -> np.ndarray:
        """RGB picture to [3, size, size] float32, normalised by mean and std."""
        size = self._spec.size
        if self._spec.resize == "squash":
            image = image.resize((size, size), Image.Resampling.BILINEAR)
        else:
            image = _center_crop(image, size)
        pixels = np.asarray(image, np.float32) / 255
        pixels = (pixels - np.array(self._spec.mean, np.float32)) / np.array(self._spec.std, np.float32)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def embed(self, batch: np.ndarray) -> np.ndarray:
        """[n, 3, size, size] float32 to [n, dim] float32 of unit length."""
        return unit(self._run(batch)) if len(batch) else np.empty((0, self.dim), np.float32)

    def _run(self, batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return self._network(torch.from_numpy(batch).to(self._device)).float().cpu().numpy()


def _center_crop(image: Image.Image, size: int) -> Image.Image:
    """Short side to ``size``, then the square in the middle."""
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))
