"""Centering: the teacher's scores as a softmax around a moving centre (Caron et al., 2021)."""

from collections.abc import Callable

import torch
from torch import Tensor

CENTER_MOMENTUM = 0.9


def softmax_around(scores: Tensor, center: Tensor, temp: float | Tensor) -> Tensor:
    """Softmax of the scores [B, K] less the centre [K], which balances the prototypes over time."""
    return torch.softmax((scores.float() - center) / temp, dim=-1)


def moved_center(center: Tensor, scores: Tensor, total: Callable[[Tensor], Tensor] = torch.clone) -> Tensor:
    """The centre [K] for the next step: it lags the batch by one, as upstream.

    Args:
        center: [K].
        scores: [B, K] of the teacher.
        total: the sum over processes.
    """
    sums = torch.cat((scores.float().sum(0), scores.new_full((1,), len(scores), dtype=torch.float32)))
    sums = total(sums)
    return torch.lerp(sums[:-1] / sums[-1], center, CENTER_MOMENTUM)
