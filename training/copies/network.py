"""The network: a convolutional backbone, GeM pooling, a projection, unit length (SSCD, section 3)."""

from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.copies.config import Network

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of values 0 to 1
GEM_POWER = 3.0


class CopyNetwork(nn.Module):
    """uint8 pictures [n, size, size, 3] to unit vectors [n, dim], float32."""

    backbone: Any
    mean: Tensor
    std: Tensor

    def __init__(self, config: Network) -> None:
        super().__init__()
        options: dict[str, Any] = {**config.options, "num_classes": 0, "global_pool": ""}
        self.backbone = timm.create_model(config.backbone, pretrained=False, **options)
        self.projection = nn.Linear(self.backbone.num_features, config.dim, bias=False)
        self.centre = nn.BatchNorm1d(config.dim, affine=False)  # without it the first vectors are all alike
        self.register_buffer("mean", 255 * torch.tensor(MEAN), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(STD), persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """[n, size, size, 3] uint8 to [n, dim] float32 of unit length."""
        pooled = self.pooled(pictures)
        with torch.autocast(pooled.device.type, enabled=False):
            return F.normalize(self.centre(self.projection(pooled)), dim=1)

    def pooled(self, pictures: Tensor) -> Tensor:
        """[n, size, size, 3] uint8 to [n, channels] float32, before the projection."""
        pixels = ((pictures.float() - self.mean) / self.std).permute(0, 3, 1, 2)  # strides of channels last
        return gem(self.backbone(pixels).float())

    def folded(self) -> dict[str, Tensor]:
        """The tensors in use after training, fp32: the centring becomes part of a projection with a bias."""
        mean, variance = self.centre.running_mean, self.centre.running_var
        assert mean is not None, "the centring keeps its running moments"
        assert variance is not None
        scale = (variance + self.centre.eps).rsqrt()
        backbone = {f"backbone.{name}": tensor for name, tensor in self.backbone.state_dict().items()}
        return {
            **{name: tensor for name, tensor in backbone.items() if not name.endswith("num_batches_tracked")},
            "projection.weight": self.projection.weight.detach() * scale[:, None],
            "projection.bias": -mean * scale,
        }


def gem(maps: Tensor) -> Tensor:
    """Generalised mean over positions, power 3: [n, c, h, w] to [n, c]."""
    return maps.clamp(min=1e-6).pow(GEM_POWER).mean(dim=(2, 3)).pow(1 / GEM_POWER)
