"""The projection head from tokens to prototypes; parameters are named as upstream."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.config import Head
from training.losses.cross_entropy import Targets, cross_entropy
from training.models.layers import compute_dtype

CHUNK = 8192  # prototypes whose weights are in memory a second time


class DINOHead(nn.Module):
    """Three layers, L2 norm, and the cosine (times a learned gain) with every prototype."""

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
        """Tokens [n, D] to fp32 unit vectors [n, bottleneck]."""
        return F.normalize(self.mlp(tokens).float(), dim=-1)

    def forward(self, tokens: Tensor, targets: Targets, temp: float) -> Tensor:
        """Tokens [n, D] to their cross-entropies [n] with targets, see :func:`cross_entropy`."""
        return self.last_layer(self.embed(tokens), targets, temp)

    @torch.no_grad()
    def scores(self, tokens: Tensor, queued: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What a teacher makes of tokens [n, D].

        Args:
            tokens: of a batch.
            queued: fp32 [q, bottleneck], what :meth:`embed` made of earlier ones.

        Returns:
            fp32 scores [q + n, K], the queued ones first, and what :meth:`embed` makes of the tokens.
        """
        x = self.embed(tokens)
        return self.last_layer.scores(x if queued is None else torch.cat((queued, x))), x


class Prototypes(nn.Module):
    """A linear layer without bias whose rows have the direction of ``weight_v`` and the length ``weight_g``."""

    def __init__(self, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(prototypes, 1))
        self.weight_v = nn.Parameter(torch.empty(prototypes, bottleneck).uniform_(-1, 1) * bottleneck**-0.5)

    def forward(self, x: Tensor, targets: Targets, temp: float) -> Tensor:
        """Cross-entropies [n] of unit vectors [n, bottleneck] with targets, see :func:`cross_entropy`."""
        return cross_entropy(x, self.weight_v, self.weight_g, targets, temp, compute_dtype(x))

    @torch.no_grad()
    def scores(self, x: Tensor) -> Tensor:
        """Unit vectors [n, bottleneck] to fp32 scores [n, K]."""
        dtype, scores = compute_dtype(x), x.new_empty(len(x), len(self.weight_v))
        x = x.to(dtype)
        for start in range(0, len(self.weight_v), CHUNK):
            part = slice(start, start + CHUNK)
            weight = self.weight_g[part] * F.normalize(self.weight_v[part], dim=-1)
            scores[:, part] = x @ weight.to(dtype).T
        return scores
