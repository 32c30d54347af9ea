"""What a backbone computes with: which attention, and compiled or not. Results are equal up to rounding."""

from typing import NamedTuple

import torch
from torch import nn

from training.config import Runtime
from training.models.fused import Fused, by_group, choose
from training.models.vit import Attention, VisionTransformer


class Kernels(NamedTuple):
    """The choice for one device and precision."""

    fused: Fused = by_group
    compiled: bool = False


PLAIN = Kernels()


def chosen(runtime: Runtime, device: torch.device, precision: str) -> Kernels:
    """What ``runtime.attention`` and ``runtime.compile`` ask for.

    Args:
        runtime: its ``auto`` takes the fastest attention that works, and compiles for CUDA.
        device: that will compute.
        precision: ``bf16`` or ``fp32``.

    Raises:
        ValueError: what is asked for does not work on the device.
    """
    fused = choose(runtime.attention, device, torch.bfloat16 if precision == "bf16" else torch.float32)
    return Kernels(fused, device.type == "cuda" if runtime.compile == "auto" else runtime.compile)


def use(kernels: Kernels, backbone: nn.Module) -> None:
    """Let a backbone compute so; parameters and their names stay.

    Blocks are compiled one by one, all into the same code. Shapes in them are fixed but for the last one's, which sees
    the tokens that a loss uses: as many as the masks happen to have. That one is left as it is.
    """
    assert isinstance(backbone, VisionTransformer)
    for module in backbone.modules():
        if isinstance(module, Attention):
            module.fused = kernels.fused
    if kernels.compiled:
        for block in list(backbone.blocks)[:-1]:
            block.forward = torch.compile(block.forward, dynamic=False)
