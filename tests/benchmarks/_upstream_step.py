"""The public dinov2 step in one process: its own model, losses, masks, parameter groups, clip, AdamW and EMA.

Only what needs a GPU or a package that is not here is replaced, in this process alone, by the plain torch operations
that do the same: xformers' packed attention becomes attention by group, its fused indexing becomes indexing,
FSDP of one process becomes nothing, and on a CPU ``.cuda`` stays where it is. On a GPU xformers is used where it is
installed, and fp16 is autocast's, which is what FSDP's mixed precision comes to in one process.
"""

import importlib.util
import random
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor, nn


class UpstreamStep:
    """One update of the public code at each call, on a batch that is ready.

    Args:
        checkout: folder of a clone of facebookresearch/dinov2.
        arch: ``vit_small`` and so on.
        batch: images.
        prototypes: K.
        centering: ``sinkhorn`` or ``softmax``.
        precision: ``fp32``, or ``bf16`` or ``fp16`` by autocast; fp16 with a scaled loss.
        more: of the public configuration, over what is said above.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(
        self,
        checkout: str,
        arch: str,
        batch: int,
        prototypes: int,
        centering: str,
        precision: str,
        more: Mapping[str, Any] | None = None,
        device: str = "cpu",
    ) -> None:
        if not (Path(checkout) / "dinov2" / "train" / "ssl_meta_arch.py").is_file():
            raise ValueError(
                f"--upstream {checkout}: is no checkout of facebookresearch/dinov2; clone it and name the folder"
            )
        replace_what_is_not_here(device)
        sys.path.insert(0, checkout)
        from dinov2.train.ssl_meta_arch import SSLMetaArch

        default = OmegaConf.load(Path(checkout) / "dinov2" / "configs" / "ssl_default_config.yaml")
        ours = {
            "compute_precision": {"grad_scaler": False},
            "dino": {"head_n_prototypes": prototypes},
            "train": {"centering": {"sinkhorn": "sinkhorn_knopp", "softmax": "centering"}[centering]},
            "student": {"arch": arch, "patch_size": 14, "drop_path_rate": 0.3},
            "crops": {"local_crops_size": 98},
        }
        config = OmegaConf.merge(default, ours, more or {})
        torch.manual_seed(0)
        random.seed(0)
        self.model = SSLMetaArch(config)
        for name, part in self.model.student.items():
            self.model.teacher[name].load_state_dict(part.state_dict())
            part.clip_grad_norm_ = partial(nn.utils.clip_grad_norm_, part.parameters())  # FSDP's method
        self.model.need_to_synchronize_fsdp_streams = False
        self.model.train()
        self.model.to(device)
        if precision == "fp16":
            self.model.fp16_scaler = torch.amp.GradScaler(device)
        self.optimiser = torch.optim.AdamW(self.model.get_params_groups(), betas=(0.9, 0.999))
        for group in self.optimiser.param_groups:
            group["lr"], group["weight_decay"] = 1e-4 * group["lr_multiplier"], 0.04 * group["wd_multiplier"]
        made = _batch(config, batch)
        self.batch = {key: x.to(device) if isinstance(x, Tensor) else x for key, x in made.items()}
        self.precision, self.device = precision, device

    def __call__(self) -> float:
        """Forward, backward, clip, AdamW, EMA; the sum of the losses."""
        self.optimiser.zero_grad(set_to_none=True)
        dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]
        with nullcontext() if dtype is None else torch.autocast(self.device, dtype):
            losses = self.model.forward_backward(self.batch, teacher_temp=0.07)
        scaler = self.model.fp16_scaler
        if scaler is not None:
            scaler.unscale_(self.optimiser)
        for part in self.model.student.values():
            part.clip_grad_norm_(3.0)
        if scaler is None:
            self.optimiser.step()
        else:
            scaler.step(self.optimiser)
            scaler.update()
        self.model.update_teacher(0.992)
        return float(sum(losses.values()))


def _batch(config: Any, size: int) -> dict[str, Any]:
    """Random crops under masks by upstream's own collate function."""
    from dinov2.data.collate import collate_data_and_cast
    from dinov2.data.masking import MaskingGenerator

    crops, patch = config.crops, config.student.patch_size
    side = crops.global_crops_size // patch
    cap = 0.5 * crops.global_crops_size // patch * crops.global_crops_size // patch
    samples = [
        {
            "global_crops": list(torch.randn(2, 3, crops.global_crops_size, crops.global_crops_size)),
            "local_crops": list(
                torch.randn(crops.local_crops_number, 3, crops.local_crops_size, crops.local_crops_size)
            ),
        }
        for _ in range(size)
    ]
    return collate_data_and_cast(
        [(sample, None) for sample in samples],
        mask_ratio_tuple=config.ibot.mask_ratio_min_max,
        mask_probability=config.ibot.mask_sample_probability,
        dtype=torch.float32,
        n_tokens=side**2,
        mask_generator=MaskingGenerator(input_size=(side, side), max_num_patches=cap),
    )


def replace_what_is_not_here(device: str = "cpu") -> None:
    """Put stand-ins where the public code looks for what it does not find on ``device``."""
    if device == "cpu" or importlib.util.find_spec("xformers") is None:
        _replace_xformers()
    absent = SimpleNamespace
    _module(
        "dinov2.fsdp",
        FSDPCheckpointer=absent,
        ShardedGradScaler=absent,
        get_fsdp_wrapper=absent,
        get_fsdp_modules=lambda part: [SimpleNamespace(params=list(part.parameters()))],
        reshard_fsdp_model=lambda _: None,
    )
    # the loop, which is not run
    _module("dinov2.train.train", get_args_parser=None, main=None)
    torch.distributed.all_reduce = lambda *_, **__: None  # type: ignore[assignment]
    if device == "cpu":
        torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
        torch.cuda.synchronize = lambda *_: None  # type: ignore[assignment]


def _replace_xformers() -> None:
    _module("xformers")
    _module(
        "xformers.ops",
        fmha=SimpleNamespace(BlockDiagonalMask=Blocks),
        unbind=torch.unbind,
        memory_efficient_attention=attention,
        index_select_cat=lambda sources, chosen: torch.cat(
            [source[index].flatten() for source, index in zip(sources, chosen, strict=True)]
        ),
        scaled_index_add=lambda x, index, source, scaling, alpha: x.index_add_(0, index, source * scaling, alpha=alpha),
        SwiGLU=SwiGLU,
    )  # without cross_entropy, so that upstream's own plain form of it is used


def _module(name: str, **contents: Any) -> None:
    made = ModuleType(name)
    made.__dict__.update(contents)
    sys.modules[name] = made
    parent, _, child = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], child, made)


class Blocks:
    """Which tokens of a packed row belong together: sequences of equal length lie side by side in groups."""

    def __init__(self, groups: Sequence[tuple[int, int]]) -> None:
        self.groups = groups  # (sequences, tokens of each)
        self._batch_sizes: Sequence[int] | None = None  # upstream sets it

    @classmethod
    def from_seqlens(cls, lengths: Sequence[int]) -> "Blocks":
        groups: list[tuple[int, int]] = []
        for length in lengths:
            if groups and groups[-1][1] == length:
                groups[-1] = (groups[-1][0] + 1, length)
            else:
                groups.append((1, length))
        return cls(groups)

    @classmethod
    def from_tensor_list(cls, tensors: Sequence[Tensor]) -> tuple["Blocks", Tensor]:
        return cls([(1, tensor.shape[1]) for tensor in tensors]), torch.cat(list(tensors), dim=1)

    def split(self, x: Tensor) -> list[Tensor]:
        parts = x.split([number * length for number, length in self.groups], dim=1)
        return [part.unflatten(1, group).squeeze(0) for part, group in zip(parts, self.groups, strict=True)]


def attention(q: Tensor, k: Tensor, v: Tensor, attn_bias: Blocks | None = None) -> Tensor:
    """[B, T, heads, d] three times to one; with ``attn_bias`` B is 1 and every sequence attends to itself."""
    if attn_bias is None:
        return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
    groups = zip(*(attn_bias.split(x) for x in (q, k, v)), strict=True)
    return torch.cat([attention(*group).flatten(0, 1) for group in groups]).unsqueeze(0)


class SwiGLU(nn.Module):
    """xformers' module of the same name."""

    def __init__(self, in_features: int, hidden_features: int, out_features: int, bias: bool) -> None:
        super().__init__()
        self.w12 = nn.Linear(in_features, 2 * hidden_features, bias=bias)
        self.w3 = nn.Linear(hidden_features, out_features, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)
