"""The spreading term: features keep a distance from their nearest neighbour (Sablayrolles et al., 2019)."""

import torch
import torch.nn.functional as F
from torch import Tensor


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
