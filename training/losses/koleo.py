"""The spreading term: features keep a distance from their nearest neighbour (Sablayrolles et al., 2019)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def koleo_among(own: Tensor, every: Tensor, part: int, num_parts: int) -> Tensor:
    """KoLeo of the crops of a batch, summed; never between two crops of one image, which should be near.

    Each part of the batch has this value, and a gradient for its own features alone. It is ``num_parts`` times theirs,
    so that the mean over the parts of values and gradients is what the whole batch has.

    Args:
        own: [C B / num_parts, D] of one part, crop by crop.
        every: [C, B, D] of all parts, without gradient; those of ``own`` are put in their place.
        part: its number, from 0.
        num_parts: of as many images each.
    """
    parts = [[*features.chunk(num_parts)] for features in every]
    for crop, features in zip(parts, own.chunk(len(every)), strict=True):
        crop[part] = features
    value = torch.stack([koleo(torch.cat(crop)) for crop in parts]).sum()
    return value + (num_parts - 1) * (value - value.detach())


@torch.autocast("cuda", enabled=False)
@torch.autocast("cpu", enabled=False)
def koleo(features: Tensor) -> Tensor:
    """-mean log(distance to the nearest neighbour + 1e-8) of L2-normalised features.

    In fp32 whatever the input: in half precision an exact duplicate gives infinity.

    Args:
        features: [B, D] of one crop each of B images, B at least 2.
    """
    x = F.normalize(features.float(), dim=-1)
    with torch.no_grad():
        similarity = x @ x.T
        nearest = similarity.fill_diagonal_(-2).argmax(dim=1)
    return -torch.log(F.pairwise_distance(x, x[nearest], eps=1e-8) + 1e-8).mean()
