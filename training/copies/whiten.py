"""Whitening of the finished network's vectors: what a short training leaves alike is evened out."""

import torch
from torch import Tensor

from training.copies.config import Recipe
from training.copies.data import Pool, Steps
from training.copies.network import CopyNetwork

FLOOR = 1e-3  # of the greatest variance: directions with less are noise


def whitened(tensors: dict[str, Tensor], outputs: Tensor) -> dict[str, Tensor]:
    """Fold a whitening into the projection.

    Args:
        tensors: from :meth:`CopyNetwork.folded`.
        outputs: [n, dim] of the projection before unit length, on pictures like those to come.

    Returns:
        The tensors with a projection whose outputs there have mean 0 and, above the floor, covariance 1.
    """
    outputs = outputs.double()
    mean = outputs.mean(dim=0)
    variances, directions = torch.linalg.eigh(torch.cov((outputs - mean).T))
    root = (variances.clamp(min=0) + FLOOR * variances.max()).rsqrt()
    matrix = (directions * root) @ directions.T  # symmetric, so that it stays as close as it can to what was trained
    weight, bias = tensors["projection.weight"].double(), tensors["projection.bias"].double()
    return {
        **tensors,
        "projection.weight": (matrix @ weight).float(),
        "projection.bias": (matrix @ (bias - mean)).float(),
    }


@torch.no_grad()
def outputs_on_views(
    network: CopyNetwork, tensors: dict[str, Tensor], pools: list[Pool], recipe: Recipe, size: int, num_steps: int
) -> Tensor:
    """[n, dim] projections, by ``tensors``, of the views of the recipe's last steps at the size of use."""
    recipe = recipe.model_copy(update={"edits": recipe.edits.model_copy(update={"size": size})})
    steps = Steps(pools, recipe, first=max(0, recipe.steps - num_steps))
    network.eval()
    device = network.mean.device
    pooled = torch.cat([network.pooled(steps[i][0].to(device)) for i in range(len(steps))])
    return pooled @ tensors["projection.weight"].T + tensors["projection.bias"]
