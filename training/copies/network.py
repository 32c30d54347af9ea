"""The network in training: the descriptor's own, on uint8 pictures, from the weights of a classifier."""

import io
from typing import Any

import torch
from torch import Tensor, nn

from curation.descriptors.copy_network import CopyNetwork
from curation.descriptors.folded import folded_backbone
from curation.weights import read_weights
from training.copies.config import Network, Weights

CHUNK = 32  # views of one pass: what they leave for the backward pass fits the caches better than a whole step's


class TrainedNetwork(nn.Module):
    """uint8 pictures [n, size, size, 3] to unit vectors [n, dim] float32; some of the parameters stand still."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: Network) -> None:
        super().__init__()
        tensors = None if config.initial is None else _read(config.initial)
        self.descriptor = CopyNetwork(folded_backbone(config.backbone, config.options, tensors), config.dim)
        self.register_buffer("mean", 255 * torch.tensor(config.mean), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(config.std), persistent=False)
        for name, parameter in self.descriptor.backbone.named_parameters():
            if any(part in name for part in config.frozen):
                parameter.requires_grad_(requires_grad=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """[n, size, size, 3] uint8 to [n, dim] float32 of unit length."""
        return torch.cat([self.descriptor(self._pixels(chunk)) for chunk in pictures.split(CHUNK)]).float()

    def pooled(self, pictures: Tensor) -> Tensor:
        """[n, size, size, 3] uint8 to [n, channels] float32, before the projection."""
        return torch.cat([self.descriptor.pooled(self._pixels(chunk)) for chunk in pictures.split(CHUNK)])

    def _pixels(self, pictures: Tensor) -> Tensor:
        return ((pictures.float() - self.mean) / self.std).permute(0, 3, 1, 2)  # strides of channels last


def _read(weights: Weights) -> dict[str, Any]:
    data = read_weights(weights.path, weights.sha256)
    try:
        tensors: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes of the unpickler
        raise ValueError(f"weights {weights.path} hold no table of tensors: {error}; set initial.path") from error
    return tensors
