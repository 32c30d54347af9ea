"""What the trained embedders share: weights by hash, pixels, and one network on one device."""

import contextlib
import hashlib
import threading
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from conf import digest
from curation.descriptors.base import EmbedderSpec, unit

_VERSION = "trained/3"  # of what happens to a picture between the file and the network
_REDUCED = 2  # a picture is decoded at a reduced scale only where it keeps so many times the pixels that are needed


class TrainedEmbedder:
    """An ``Embedder`` over a network that maps [n, 3, size, size] to [n, dim].

    The network is always given ``batch_size`` pictures, the missing ones blank: kernels are chosen by the shape of
    their input, and other kernels give other last bits. On one thread, with one kind of processor, a vector therefore
    depends on its picture alone.

    Args:
        name: for reports.
        network: the module, or a scripted one.
        spec: how pictures are brought to it.
        architecture: what decides the network besides its weights and the specification, as a text.
    """

    kind: Literal["classical", "trained"] = "trained"
    min_side: int | None

    def __init__(self, name: str, network: Any, spec: EmbedderSpec, architecture: str = "") -> None:
        self.name = name
        # the file's hash counts, not its place
        identity = "\0".join([_VERSION, digest(spec.model_copy(update={"weights": None})), architecture])
        self.digest = hashlib.sha256(identity.encode()).hexdigest()
        self.batch_size = spec.batch_size
        self.min_side = _REDUCED * spec.resized_side
        self._spec, self._architecture = spec, architecture
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._turn = threading.Lock() if self._device.type == "cuda" else contextlib.nullcontext()
        self._network = network.eval().to(self._device)
        scale = 255 * torch.tensor(spec.std, dtype=torch.float64)
        shift = -torch.tensor(spec.mean, dtype=torch.float64) / torch.tensor(spec.std, dtype=torch.float64)
        self._scale, self._shift = (x.float().view(1, 3, 1, 1).to(self._device) for x in (1 / scale, shift))
        self.dim = self._probed()

    def with_passes(self, precision: Literal["fp32", "bf16"], batch_size: int) -> "TrainedEmbedder":
        """The same network, run in another precision or with other batches; another digest unless both are as here."""
        spec = self._spec.model_copy(update={"precision": precision, "batch_size": batch_size})
        return TrainedEmbedder(self.name, self._network, spec, self._architecture)

    def preprocess(self, image: Image.Image) -> np.ndarray:
        """RGB picture to [size, size, 3] uint8."""
        size = self._spec.size
        filter = Image.Resampling[self._spec.filter.upper()]
        box = None if self._spec.resize == "squash" else central_box(*image.size, size, self._spec.resized_side)
        return np.asarray(image.resize((size, size), filter, box))

    def embed(self, batch: np.ndarray) -> np.ndarray:
        """[n, size, size, 3] uint8 to [n, dim] float32 of unit length."""
        parts = [self._run(batch[start : start + self.batch_size]) for start in range(0, len(batch), self.batch_size)]
        return unit(np.concatenate(parts)) if parts else np.empty((0, self.dim), np.float32)

    def pixels(self, batch: np.ndarray) -> Tensor:
        """[n, size, size, 3] uint8 to [n, 3, size, size] float32 as the network sees it: less mean, over std."""
        return torch.from_numpy(batch).to(self._device).permute(0, 3, 1, 2).float() * self._scale + self._shift

    def _run(self, batch: np.ndarray) -> np.ndarray:
        """At most ``batch_size`` pictures to as many rows."""
        full = np.zeros((self.batch_size, *batch.shape[1:]), np.uint8)
        full[: len(batch)] = batch
        found: np.ndarray = self._pass(full).numpy()
        return found[: len(batch)]

    def _pass(self, full: np.ndarray) -> Any:
        """``batch_size`` pictures through the network, to whatever it gives."""
        bf16 = self._spec.precision == "bf16"
        with self._turn, torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=bf16):
            found = self._network(self.pixels(full))
            return found.float().cpu() if isinstance(found, Tensor) else found

    def _probed(self) -> int:
        """The length of a vector, by a batch of blank pictures.

        Raises:
            ValueError: the network does not take them, or gives anything but one vector for each.
        """
        size, told = self._spec.size, f"{self.name} ({self._spec.weights})"
        try:
            found = self._pass(np.zeros((self.batch_size, size, size, 3), np.uint8))
        except (RuntimeError, AssertionError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise ValueError(f"{told} does not take pictures of size = {size}: {error}") from error
        shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != self.batch_size or not found.shape[1]:
            raise ValueError(
                f"{told} gives {shape} for {self.batch_size} pictures, not one vector each: [{self.batch_size}, dim]; "
                "use a model with pooled output"
            )
        return int(found.shape[1])


def central_box(width: int, height: int, size: int, resized_side: int) -> tuple[float, float, float, float]:
    """What torchvision's ``Resize(resized_side)`` and ``CenterCrop(size)`` leave of a picture, in its own pixels.

    Only this part is resized, so that a strip takes no more memory than any other picture.

    Args:
        width: of the picture, pixels.
        height: of the picture, pixels.
        size: of the square, in pixels of the resized picture.
        resized_side: that its short side would get; at least ``size``.

    Returns:
        Left, upper, right and lower edge.
    """
    edges = []
    for side in (width, height):
        resized = resized_side * side // min(width, height)
        start = round((resized - size) / 2)
        edges.append((start * side / resized, min(side, (start + size) * side / resized)))
    (left, right), (upper, lower) = edges
    return left, upper, right, lower
