"""What every image embedder offers, and how a configuration names one."""

from typing import Annotated, Literal, Protocol

import numpy as np
from PIL import Image
from pydantic import Field, FiniteFloat, model_validator

from conf import Section


class Embedder(Protocol):
    """Turns pictures into unit vectors whose inner product is a similarity.

    Attributes:
        name: for reports.
        dim: length of a vector.
        digest: hex digest of everything that decides the vectors.
        kind: "classical" for a hand-made descriptor that stands in until trained weights are given.
    """

    name: str
    dim: int
    digest: str
    kind: Literal["classical", "trained"]

    def preprocess(self, image: Image.Image) -> np.ndarray:
        """One RGB picture to the embedder's float32 input; equal shapes for all pictures."""
        ...

    def embed(self, batch: np.ndarray) -> np.ndarray:
        """[n, ...] float32 inputs to [n, dim] float32 of unit length."""
        ...


class EmbedderSpec(Section):
    """One embedder of a configuration; ``copy_network`` ships with the package, other trained ones need their file."""

    adapter: Literal["classical_copy", "classical_scene", "copy_network", "torchscript", "timm"]
    weights: str | None = None  # path or fsspec URI: TorchScript, or safetensors for timm
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")  # of the weights file
    model: str | None = None  # timm's name of the architecture
    size: int = Field(224, gt=0)  # pixels of the square input
    resize: Literal["squash", "center_crop"] = "center_crop"  # SSCD: squash to 320
    mean: list[float] = Field([0.485, 0.456, 0.406], min_length=3, max_length=3)  # ImageNet's, of values 0 to 1
    std: list[Annotated[FiniteFloat, Field(gt=0)]] = Field([0.229, 0.224, 0.225], min_length=3, max_length=3)

    @model_validator(mode="after")
    def _keys_fit_the_adapter(self) -> "EmbedderSpec":
        file = {"weights", "sha256"}
        needed = {"torchscript": file, "timm": file | {"model"}}.get(self.adapter, set())
        allowed = needed | {"size", "resize", "mean", "std"} if needed else set()
        for key in sorted(needed):
            if getattr(self, key) is None:
                raise ValueError(f"the adapter {self.adapter} needs the key {key!r}")
        for key in sorted(self.model_fields_set - allowed - {"adapter"}):
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"the adapter {self.adapter} has no use for the key {key!r}; remove it")
        return self


def load_embedder(spec: EmbedderSpec) -> Embedder:
    """Make the embedder that a specification names; imports torch only for a trained one.

    Raises:
        ValueError: the weights are missing, have another hash, or do not fit the model.
    """
    if spec.adapter == "classical_copy":
        from curation.descriptors.classical_copy import ClassicalCopy

        return ClassicalCopy()
    if spec.adapter == "classical_scene":
        from curation.descriptors.classical_scene import ClassicalScene

        return ClassicalScene()
    if spec.adapter == "copy_network":
        from curation.descriptors.copy_network import load_copy_network

        return load_copy_network()
    if spec.adapter == "torchscript":
        from curation.descriptors.torchscript import load_torchscript

        return load_torchscript(spec)
    from curation.descriptors.timm_model import load_timm

    return load_timm(spec)


def unit(vectors: np.ndarray) -> np.ndarray:
    """[n, d] to float32 rows of unit length; a row of zeros stays so and resembles nothing."""
    vectors = np.asarray(vectors, np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1.0)).astype(np.float32)
