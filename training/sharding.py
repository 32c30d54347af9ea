"""Parameters, gradients and moments in shares, one a process (FSDP2)."""

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from training.processes import Processes


def shard(
    network: nn.ModuleDict, precision: str, processes: Processes, *, learns: bool, accumulates: bool = False
) -> None:
    """Give each process its share of a student or teacher, block by block; one process keeps all.

    Whole parameters exist while a network is used: a student's from its forward to the end of its backward pass, a
    teacher's for its forward pass. In bf16, parameters are gathered and the backbone's gradients averaged in bf16,
    those of the heads in fp32, as upstream; what the optimiser and the teacher's average see is fp32.

    Args:
        network: ``backbone`` and heads; its parameters become ``DTensor`` of which this process has a part.
        precision: ``bf16`` or ``fp32``.
        processes: who shares.
        learns: whether there will be a backward pass.
        accumulates: whether there will be several before gradients are averaged; they are added up in fp32, and
            averaged so.
    """
    if processes.mesh is None:
        return
    half = torch.bfloat16 if precision == "bf16" else None
    for name, part in network.items():
        policy = MixedPrecisionPolicy(
            param_dtype=half,
            reduce_dtype=half if name == "backbone" and not accumulates else torch.float32,
            cast_forward_inputs=False,  # autocast decides, as in one process; the row of tokens stays fp32
        )
        blocks = list(part.blocks) if name == "backbone" else []  # type: ignore[arg-type]
        for module in (*blocks, part):
            sharded = fully_shard(module, mesh=processes.mesh, reshard_after_forward=not learns, mp_policy=policy)
            sharded.set_force_sum_reduction_for_comms(processes.device.type == "cpu")  # gloo has no average
        register_fsdp_forward_method(part, "select" if name == "backbone" else "scores")


def average_after(network: nn.ModuleDict, *, this_pass: bool) -> None:
    """Whether gradients are averaged over processes after the next backward pass, or kept whole and added up."""
    for part in network.values():
        if isinstance(part, FSDPModule):
            part.set_requires_gradient_sync(this_pass)
            part.set_reshard_after_backward(this_pass)


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, with the same memory; all of one that is not shared out."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; every process must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
