"""Centering: the teacher's scores as a softmax around a moving centre (Caron et al., 2021)."""

import torch
from torch import Tensor

CENTER_MOMENTUM = 0.9


def softmax_around(scores: Tensor, center: Tensor, temp: float | Tensor) -> Tensor:
    """Softmax of the scores [B, K] less the centre [K], which balances the prototypes over time."""
    return torch.softmax((scores.float() - center) / temp, dim=-1)


def moved_center(center: Tensor, scores: Tensor) -> Tensor:
    """The centre [K] for the next step: it lags the batch by one, as upstream."""
    return torch.lerp(scores.float().mean(0), center, CENTER_MOMENTUM)
