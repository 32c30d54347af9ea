"""Centering: the teacher's scores as a softmax around a moving centre (Caron et al., 2021)."""

import torch
from torch import Tensor

from training.losses.reduce import AllReduce, alone

CENTER_MOMENTUM = 0.9


def softmax_around_(scores: Tensor, center: Tensor, temp: float) -> Tensor:
    """Softmax of fp32 scores [B, K] less the centre [K], which balances the prototypes over time; written over them."""
    return torch.softmax(scores.sub_(center).div_(temp), dim=-1, out=scores)


def moved_center(center: Tensor, scores: Tensor, all_reduce: AllReduce = alone) -> Tensor:
    """The centre [K] for the next step: it lags the batch by one, as upstream.

    Upstream takes the mean over processes of their means; this is the mean over all samples, which is the same where
    processes have as many.
    """
    count = scores.new_full((1,), len(scores))
    total = all_reduce(torch.cat((scores.sum(0), count)), "sum")
    return torch.lerp(total[:-1] / total[-1].clamp(min=1), center, CENTER_MOMENTUM)
