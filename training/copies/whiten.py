"""Whitening: vectors whose directions all vary alike, before training and after it."""

from collections.abc import Iterable

import torch
from torch import Tensor

from training.copies.network import TrainedNetwork

FIRST_FLOOR, LAST_FLOOR = 1e-2, 1e-3  # of the greatest variance: directions with less are noise


@torch.no_grad()
def start_projection(network: TrainedNetwork, views: Iterable[Tensor]) -> None:
    """Set the projection to the whitened leading directions of the pooled channels of uint8 views [n, s, s, 3]."""
    projection = network.descriptor.projection
    mean, directions, scale = _principal(torch.cat([network.pooled(view) for view in views]), FIRST_FLOOR)
    weight = (directions * scale).T[: projection.out_features]
    projection.weight.copy_(weight)
    projection.bias.copy_(-weight @ mean)


@torch.no_grad()
def whiten_projection(network: TrainedNetwork, views: Iterable[Tensor]) -> None:
    """Fold a whitening of the vectors before unit length into the projection, by uint8 views [n, s, s, 3]."""
    projection = network.descriptor.projection
    mean, directions, scale = _principal(torch.cat([projection(network.pooled(view)) for view in views]), LAST_FLOOR)
    matrix = (directions * scale) @ directions.T  # symmetric, so that it stays as close as it can to what was trained
    weight, bias = projection.weight.double(), projection.bias.double()
    projection.weight.copy_(matrix @ weight)
    projection.bias.copy_(matrix @ (bias - mean))


def _principal(outputs: Tensor, floor: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [d], directions [d, d] as columns by falling variance, and their scales [d], float64."""
    outputs = outputs.double()
    mean = outputs.mean(dim=0)
    variances, directions = torch.linalg.eigh(torch.cov((outputs - mean).T))
    scale = (variances.clamp(min=0) + floor * variances.max()).rsqrt()
    return mean, directions.flip(1), scale.flip(0)
