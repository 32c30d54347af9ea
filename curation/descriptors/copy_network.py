"""The copy descriptor that ships with the package: a small convolutional network with GeM pooling, in safetensors.

How it was trained and how well it does: docs/models/copy_descriptor.md.
"""

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from curation.descriptors.base import EmbedderSpec
from curation.descriptors.trained import TrainedEmbedder
from curation.weights import read_weights

WEIGHTS = Path(__file__).parent / "weights" / "copy_descriptor.safetensors"
SHA256 = "d50da740131b3ecdd9f766c166099a7c53e2a717441954d88096626a661191b5"
GEM_POWER = 3.0


class CopyNetwork(nn.Module):
    """Backbone, GeM pooling and projection; a picture and its mirror image have the same vector."""

    backbone: Any

    def __init__(self, backbone: str, options: dict[str, Any], dim: int) -> None:
        super().__init__()
        options = {**options, "num_classes": 0, "global_pool": ""}
        self.backbone = timm.create_model(backbone, pretrained=False, **options)
        self.projection = nn.Linear(self.backbone.num_features, dim)

    def forward(self, pixels: Tensor) -> Tensor:
        """[n, 3, size, size] normalised pixels to [n, dim]: the sum of both sides' unit vectors."""
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        return self._one_side(pixels) + self._one_side(pixels.flip(3))

    def _one_side(self, pixels: Tensor) -> Tensor:
        maps = self.backbone(pixels)
        pooled = maps.clamp(min=1e-6).pow(GEM_POWER).mean(dim=(2, 3)).pow(1 / GEM_POWER)
        return F.normalize(self.projection(pooled), dim=1)


def load_copy_network(path: str | Path = WEIGHTS, sha256: str = SHA256, size: int | None = None) -> TrainedEmbedder:
    """The descriptor in a file of ``training.copies.train``, by default the one that ships.

    Args:
        path: safetensors.
        sha256: of the file.
        size: pixels of the square input; by default the file's.

    Raises:
        ValueError: the file is missing, has another hash, or is not such a descriptor.
    """
    file = {"adapter": "timm", "weights": str(path), "sha256": sha256, "model": "copy_descriptor"}
    data = read_weights(str(path), sha256)
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        made = json.loads(header["__metadata__"]["copy_descriptor"])
        network = CopyNetwork(made["backbone"], made["options"], made["dim"])
        missing, unexpected = network.load_state_dict(
            {name: tensor.float() for name, tensor in safetensors.torch.load(data).items()}, strict=False
        )
        use = {"size": size or made["size"], "mean": made["mean"], "std": made["std"]}
        spec = EmbedderSpec.model_validate({**file, **use, "resize": "squash"})
    except (KeyError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"weights {path} are no copy descriptor of training.copies.train: {' '.join(str(error).split())}"
        ) from error
    absent = [name for name in missing if not name.endswith("num_batches_tracked")]  # counts training steps only
    if absent or unexpected:
        raise ValueError(f"weights {path} do not fit {made['backbone']}: {[*absent, *unexpected][:3]}")
    return TrainedEmbedder("copy_descriptor", network, spec)
