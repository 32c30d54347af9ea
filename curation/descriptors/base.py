"""What every image embedder offers, and how a configuration names one."""

import math
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
        digest: hex digest of everything that decides the vectors, the picture's way from the file to the input
            included: vectors of one digest may stand in one table.
        kind: "classical" for a hand-made descriptor that stands in until trained weights are given.
        batch_size: pictures that ``embed`` is best given at once.
        min_side: pixels that both sides of a picture must keep where it can be decoded at a reduced scale; None where
            it must not be.
    """

    name: str
    dim: int
    digest: str
    kind: Literal["classical", "trained"]
    batch_size: int
    min_side: int | None

    def preprocess(self, image: Image.Image) -> np.ndarray:
        """One RGB picture to the embedder's input; equal shapes and dtypes for all pictures."""
        ...

    def embed(self, batch: np.ndarray) -> np.ndarray:
        """[n, ...] inputs to [n, dim] float32 of unit length; a row depends on its input alone."""
        ...


_FILE = {"weights", "sha256"}
_PICTURE = {"size", "resize", "crop_pct", "interpolation", "mean", "std"}
_NETWORK = {"precision", "batch_size"}
_NEEDED: dict[str, set[str]] = {
    "torchscript": _FILE,
    "timm": _FILE | {"model"},
    "dinov2": _FILE,
    "huggingface": _FILE,
}
_ALLOWED: dict[str, set[str]] = {
    "copy_network": _NETWORK,
    "torchscript": _PICTURE | _NETWORK,
    "timm": _PICTURE | _NETWORK | {"options"},
    "dinov2": _PICTURE | _NETWORK | {"num_heads"},
    "huggingface": _PICTURE | _NETWORK | {"options"},
}


class EmbedderSpec(Section):
    """One embedder of a configuration; ``copy_network`` ships with the package, other trained ones need their file.

    For SSCD's ``sscd_disc_mixup.torchscript.pt``, as its authors use it: ``adapter: torchscript, size: 320, resize:
    squash``; mean and std are the defaults. DINOv2's evaluation, Resize(256) and CenterCrop(224), is ``size: 224,
    crop_pct: 0.875``.
    """

    adapter: Literal[
        "classical_copy", "classical_scene", "copy_network", "torchscript", "timm", "dinov2", "huggingface"
    ]
    weights: str | None = None  # path or fsspec URI: a file of weights; the folder of a Hugging Face model
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")  # of the weights file; in a folder, model.safetensors
    model: str | None = None  # timm's name of the architecture
    options: dict[str, int | float | bool | str] = {}  # of that architecture, such as patch_size: 16
    num_heads: int | None = Field(None, gt=0)  # dinov2: of attention; None: 64 dimensions each, as in DINOv2
    size: int = Field(224, gt=0)  # pixels of the square input
    resize: Literal["squash", "center_crop"] = "center_crop"  # SSCD: squash to 320
    crop_pct: float = Field(
        1.0, gt=0, le=1
    )  # center_crop: size over the resized short side; DINOv2: 0.875 (224 of 256)
    interpolation: Literal["bilinear", "bicubic"] | None = None  # None: bilinear to squash, else bicubic
    mean: list[float] = Field([0.485, 0.456, 0.406], min_length=3, max_length=3)  # ImageNet's, of values 0 to 1
    std: list[Annotated[FiniteFloat, Field(gt=0)]] = Field([0.229, 0.224, 0.225], min_length=3, max_length=3)
    precision: Literal["fp32", "bf16"] = "fp32"  # of the network's products; vectors are stored in fp16
    batch_size: int = Field(8, gt=0)  # pictures in one pass of the network: 8 suits a CPU core, 128 and more a GPU

    @property
    def resized_side(self) -> int:
        """The short side, in pixels, of what ``size`` is cut from; as timm computes it."""
        return math.floor(self.size / self.crop_pct + 1e-6)  # 518 / (518 / 592) is not quite 592

    @property
    def filter(self) -> Literal["bilinear", "bicubic"]:
        """How pictures are resized."""
        return self.interpolation or ("bilinear" if self.resize == "squash" else "bicubic")

    @model_validator(mode="after")
    def _keys_fit_the_adapter(self) -> "EmbedderSpec":
        needed = _NEEDED.get(self.adapter, set())
        allowed = needed | _ALLOWED.get(self.adapter, set())
        for key in sorted(needed):
            if getattr(self, key) is None:
                raise ValueError(f"the adapter {self.adapter} needs the key {key!r}")
        for key in sorted(self.model_fields_set - allowed - {"adapter"}):
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"the adapter {self.adapter} has no use for the key {key!r}; remove it")
        if self.resize == "squash" and self.crop_pct != 1:
            raise ValueError(f"crop_pct = {self.crop_pct} cuts nothing with resize = squash; remove one of them")
        return self


def unit(vectors: np.ndarray) -> np.ndarray:
    """[n, d] to float32 rows of unit length; a row of zeros stays so and resembles nothing."""
    vectors = np.asarray(vectors, np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1.0)).astype(np.float32)
