"""Centering: the teacher's scores as a softmax around a moving centre (Caron et al., 2021)."""

from collections.abc import Callable

import torch
from torch import Tensor

CENTER_MOMENTUM = 0.9


def softmax_around_(scores: Tensor, center: Tensor, temp: float) -> Tensor:
    """Softmax of fp32 scores [B, K] less the centre [K], which balances the prototypes over time; written over them."""
    return torch.softmax(scores.sub_(center).div_(temp), dim=-1, out=scores)


def moved_center(center: Tensor, scores: Tensor, total: Callable[[Tensor], Tensor] = torch.clone) -> Tensor:
    """The centre [K] for the next step: it lags the batch by one, as upstream.

    Upstream takes the mean over processes of their means; this is the mean over all samples, which is the same where
    processes have as many.

    Args:
        center: [K].
        scores: fp32 [B, K] of the teacher.
        total: the sum over processes.
    """
    sums = total(torch.cat((scores.sum(0), scores.new_full((1,), len(scores)))))
    return torch.lerp(sums[:-1] / sums[-1], center, CENTER_MOMENTUM)
