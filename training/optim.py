"""AdamW over groups: layer-wise decay, no weight decay where it harms, a clip for each sub-module."""

import torch
from torch import Tensor, nn

from training.config import Optimiser
from training.schedules import Now
from training.sharding import whole


def multipliers(name: str, depth: int, config: Optimiser) -> tuple[float, float, bool]:
    """How one parameter departs from the schedule.

    The learning rate of layer i of n + 1 is multiplied by decay^(n + 1 - i): embeddings and tokens are layer 0,
    block k is layer k + 1, the norm and the heads are layer n + 1 (Bao et al., 2022; DINOv2's parameter groups).

    Args:
        name: as in the student, e.g. ``backbone.blocks.3.attn.qkv.weight``.
        depth: n, the number of blocks.
        config: the decay and the multiplier of the patch embedding.

    Returns:
        The multiplier of the learning rate, that of the weight decay, and whether it is a last layer.
    """
    part, _, rest = name.partition(".")
    layer = depth + 1
    if part == "backbone":
        if rest.startswith("blocks."):
            layer = int(rest.split(".")[1]) + 1
        elif not rest.startswith("norm."):
            layer = 0
    lr = config.layer_decay ** (depth + 1 - layer)
    if rest.startswith("patch_embed."):
        lr *= config.patch_embed_lr
    undecayed = name.endswith((".bias", ".gamma")) or "norm" in name
    return lr, 0.0 if undecayed else 1.0, "last_layer" in name


def build_optimiser(student: nn.ModuleDict, config: Optimiser) -> torch.optim.AdamW:
    """AdamW with one group for every distinct set of multipliers."""
    depth = len(student["backbone"].blocks)  # type: ignore[arg-type]
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in student.named_parameters():
        groups.setdefault(multipliers(name, depth, config), []).append(parameter)
    optimiser = torch.optim.AdamW(
        [
            {"params": parameters, "lr_multiplier": lr, "wd_multiplier": wd, "last_layer": last}
            for (lr, wd, last), parameters in groups.items()
        ],
        betas=(0.9, 0.999),
        fused=True,
    )
    for group in optimiser.param_groups:  # as the first step would, so that a checkpoint can be read into it
        for parameter in group["params"]:
            optimiser.state[parameter] = {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, requires_grad=False),
                "exp_avg_sq": torch.zeros_like(parameter, requires_grad=False),
            }
    return optimiser


def set_schedule(optimiser: torch.optim.Optimizer, now: Now) -> None:
    """Give every group its learning rate and weight decay for this step."""
    for group in optimiser.param_groups:
        group["lr"] = group["lr_multiplier"] * (now.last_layer_lr if group["last_layer"] else now.lr)
        group["weight_decay"] = group["wd_multiplier"] * now.weight_decay


def clip_gradients(student: nn.ModuleDict, max_norm: float) -> dict[str, Tensor]:
    """Clip the gradient norm of each sub-module by itself; returns the norms before, on the device."""
    norms = {}
    for name, part in student.items():
        parameters = list(part.parameters())
        norms[name] = whole(nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norms[name])
    return norms


def step_where(finite: Tensor, optimiser: torch.optim.Optimizer) -> None:
    """One optimiser step where ``finite`` (a bool scalar on the device) holds, else none; no synchronisation.

    Fused AdamW reads ``found_inf`` on the device: the contract that ``torch.amp.GradScaler`` uses.
    """
    optimiser.found_inf = (~finite).float()  # type: ignore[attr-defined]
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
