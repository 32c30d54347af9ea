"""What a backbone computes with: which attention, compiled or not, kept or computed again; equal up to rounding."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from training.config import Runtime
from training.models.fused import Fused, by_group, choose
from training.models.packing import Groups
from training.models.vit import Attention, VisionTransformer


class Kernels(NamedTuple):
    """The choice for one device and precision."""

    fused: Fused = by_group
    compiled: bool = False
    recompute: bool = False


PLAIN = Kernels()


def chosen(runtime: Runtime, device: torch.device, precision: str) -> Kernels:
    """What ``runtime.attention``, ``runtime.compile`` and ``runtime.recompute`` ask for.

    Args:
        runtime: its ``auto`` takes the fastest attention that works, and compiles for CUDA.
        device: that will compute.
        precision: ``bf16`` or ``fp32``.

    Raises:
        ValueError: what is asked for does not work on the device.
    """
    fused = choose(runtime.attention, device, torch.bfloat16 if precision == "bf16" else torch.float32)
    compiled = device.type == "cuda" if runtime.compile == "auto" else runtime.compile
    return Kernels(fused, compiled, runtime.recompute)


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
    if kernels.recompute:
        for block in backbone.blocks:
            block.forward = _again_in_backward(block.forward)


def _again_in_backward(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A block's forward that keeps its row alone; the rest is computed a second time, with the same random numbers."""

    def kept(row: Tensor, groups: Groups, places: Tensor | None = None) -> Tensor:
        if not torch.is_grad_enabled():
            return forward(row, groups, places)
        # a block may write into its row, which the second time needs as it was
        return checkpoint(lambda row: forward(row.clone(), groups, places), row, use_reentrant=False)

    return kept
