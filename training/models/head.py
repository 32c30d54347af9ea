"""The projection head from tokens to prototype scores; parameters are named as upstream."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.config import Head


class DINOHead(nn.Module):
    """Three layers, L2 norm, and the cosine (times a learned gain) with every prototype.

    ``embed`` and ``last_layer`` are separate calls, so that a loss may take the prototypes in chunks.
    """

    def __init__(self, dim: int, config: Head) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.bottleneck),
        )
        self.last_layer = Prototypes(config.bottleneck, config.prototypes)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def embed(self, tokens: Tensor) -> Tensor:
        """Tokens [..., D] to unit vectors [..., bottleneck]."""
        return F.normalize(self.mlp(tokens).float(), dim=-1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [..., D] to scores [..., K]."""
        return self.last_layer(self.embed(tokens))


class Prototypes(nn.Module):
    """A linear layer without bias whose rows have the direction of ``weight_v`` and the length ``weight_g``."""

    def __init__(self, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(prototypes, 1))
        self.weight_v = nn.Parameter(torch.empty(prototypes, bottleneck).uniform_(-1, 1) * bottleneck**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Unit vectors [..., bottleneck] to scores [..., K]."""
        return F.linear(x, self.weight_g * F.normalize(self.weight_v, dim=-1))
