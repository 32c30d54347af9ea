"""Inputs that need no file: the same numbers on every machine, from a formula."""

import torch
from torch import Tensor, nn


def fixed(name: str, *shape: int, scale: float = 1.0) -> Tensor:
    """Values in -scale..scale that look random."""
    count = torch.Size(shape).numel()
    phase = torch.arange(count, dtype=torch.float64) * 2.399963 + sum(name.encode()) * 0.731
    return (scale * torch.sin(phase * (1 + 0.01 * torch.sin(0.37 * phase)))).reshape(shape).float()


def fill_tensor(name: str, tensor: Tensor) -> Tensor:
    """Fixed values of about the size that a trained parameter of this name has."""
    values = fixed(name, *tensor.shape, scale=0.06)
    if "norm" in name and name.endswith("weight"):
        return 1 + values
    return 0.7 + values if name.endswith(("gamma", "lambda1", "weight_g")) else values


@torch.no_grad()
def fill(module: nn.Module) -> None:
    """Give every parameter such values."""
    for name, parameter in module.named_parameters():
        parameter.copy_(fill_tensor(name, parameter))
