"""The copy descriptor that ships with the package: a small convolutional network with GeM pooling, in safetensors.

How it was trained and how well it does: docs/models/copy_descriptor.md.
"""

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from curation.descriptors.base import EmbedderSpec
from curation.descriptors.folded import folded_backbone
from curation.descriptors.trained import TrainedEmbedder
from curation.weights import read_weights

WEIGHTS = Path(__file__).parent / "weights" / "copy_descriptor.safetensors"
SHA256 = "f4c1e6fdd3297ba92847b341defd9eb0145f4cbf02a483ad7a6328f486cc0371"
GEM_POWER = 3.0


class CopyNetwork(nn.Module):
    """Backbone, GeM pooling, projection, unit length (SSCD, section 3).

    Args:
        backbone: from :func:`folded_backbone`.
        dim: of a vector.
    """

    def __init__(self, backbone: Any, dim: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = nn.Linear(backbone.num_features, dim)

    def forward(self, pixels: Tensor) -> Tensor:
        """[n, 3, size, size] normalised pixels to [n, dim] float32 of unit length."""
        return F.normalize(self.projection(self.pooled(pixels)), dim=1)

    def pooled(self, pixels: Tensor) -> Tensor:
        """[n, 3, size, size] normalised pixels to [n, channels] float32: the generalised mean over positions."""
        maps = self.backbone(pixels.contiguous(memory_format=torch.channels_last)).float()
        return maps.clamp(min=1e-6).pow(GEM_POWER).mean(dim=(2, 3)).pow(1 / GEM_POWER)


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
        network = CopyNetwork(folded_backbone(made["backbone"], made["options"]), made["dim"])
        network.load_state_dict({name: tensor.float() for name, tensor in safetensors.torch.load(data).items()})
        use = {"size": size or made["size"], "mean": made["mean"], "std": made["std"]}
        spec = EmbedderSpec.model_validate({**file, **use, "resize": "squash"})
    except (KeyError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"weights {path} are no copy descriptor of training.copies.train: {' '.join(str(error).split())}"
        ) from error
    return TrainedEmbedder("copy_descriptor", network, spec)
