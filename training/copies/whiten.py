"""Whitening: the projection starts with vectors whose directions all vary alike."""

from collections.abc import Iterable

import torch
from torch import Tensor

from training.copies.network import TrainedNetwork

FLOOR = 1e-2  # of the greatest variance: directions with less are noise


@torch.no_grad()
def start_projection(network: TrainedNetwork, views: Iterable[Tensor]) -> None:
    """Set the projection to the whitened leading directions of the pooled channels of uint8 views [n, s, s, 3]."""
    projection = network.descriptor.projection
    pooled = torch.cat([network.pooled(view) for view in views]).double()
    mean = pooled.mean(dim=0)
    variances, directions = torch.linalg.eigh(torch.cov((pooled - mean).T))
    scale = (variances.clamp(min=0) + FLOOR * variances.max()).rsqrt()
    weight = (directions * scale).T.flip(0)[: projection.out_features]
    projection.weight.copy_(weight)
    projection.bias.copy_(-weight @ mean)
