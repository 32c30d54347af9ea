"""Inputs that need no file: the same numbers on every machine, from a formula."""

import torch
from torch import Tensor, nn


def fixed(name: str, *shape: int, scale: float = 1.0) -> Tensor:
    """Values in -scale..scale that look random."""
    count = torch.Size(shape).numel()
    phase = torch.arange(count, dtype=torch.float64) * 2.399963 + sum(name.encode()) * 0.731
    return (scale * torch.sin(phase * (1 + 0.01 * torch.sin(0.37 * phase)))).reshape(shape).float()


@torch.no_grad()
def fill(module: nn.Module) -> None:
    """Give every parameter fixed values of about the size that trained ones have."""
    for name, parameter in module.named_parameters():
        values = fixed(name, *parameter.shape, scale=0.06)
        if "norm" in name and name.endswith("weight"):
            values = 1 + values
        elif name.endswith(("gamma", "weight_g")):
            values = 0.7 + values
        parameter.copy_(values)
