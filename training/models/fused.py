"""Attention of packed crops by kernels that others keep: which there are, and which of them this machine can run."""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from training.models.packing import Groups, unpack

Fused = Callable[[Tensor, Groups, int], Tensor]  # queries, keys and values [n, 3 D], groups, heads: to [n, D]


def by_group(qkv: Tensor, groups: Groups, num_heads: int) -> Tensor:
    """Scaled dot-product attention of torch, once a group."""
    every = []
    for crops in unpack(qkv, groups):
        q, k, v = crops.unflatten(2, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)
        every.append(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).flatten(0, 1))
    return torch.cat(every)


def varlen(qkv: Tensor, groups: Groups, num_heads: int) -> Tensor:
    """Attention of torch over sequences of any length that lie in one row: one kernel for all crops."""
    from torch.nn.attention.varlen import varlen_attn

    compiling = torch.compiler.is_compiling()  # then it is part of the graph; the compiler sees through a cache
    bounds = (_bounds if compiling else _kept_bounds)(groups, qkv.device)
    longest = max(tokens for _, tokens in groups)
    q, k, v = qkv.unflatten(1, (3, num_heads, -1)).unbind(1)
    out = varlen_attn(q, k, v, bounds, bounds, longest, longest)
    assert isinstance(out, Tensor)
    return out.flatten(1)


@torch.compiler.disable
def xformers(qkv: Tensor, groups: Groups, num_heads: int) -> Tensor:
    """Attention of xformers under a block-diagonal mask; to the compiler it is a gap between two graphs."""
    from xformers.ops import memory_efficient_attention

    q, k, v = qkv.unflatten(1, (3, num_heads, -1)).unsqueeze(0).unbind(2)
    return memory_efficient_attention(q, k, v, attn_bias=_mask(groups)).squeeze(0).flatten(1)


FUSED: dict[str, Fused] = {"varlen": varlen, "xformers": xformers, "sdpa": by_group}  # the first that runs is chosen

KERNELS_FOR = "cuda"


def choose(name: str, device: torch.device, dtype: torch.dtype) -> Fused:
    """The kernel of a name, or for ``auto`` the first that works; each is tried, forward and backward, on a small row.

    Args:
        name: a key of :data:`FUSED`, or ``auto``.
        device: that will compute.
        dtype: of queries, keys and values.

    Raises:
        ValueError: the one that is named does not work here.
    """
    if name != "auto":
        if reason := why_not(FUSED[name], device, dtype):
            raise ValueError(f"runtime.attention = {name!r} does not work here: {reason}; use runtime.attention=auto")
        return FUSED[name]
    return next(fused for fused in FUSED.values() if not why_not(fused, device, dtype))


def why_not(fused: Fused, device: torch.device, dtype: torch.dtype) -> str | None:
    """What goes wrong on a small row, in one line; None where the kernel gives what :func:`by_group` gives."""
    if fused is not by_group and device.type != KERNELS_FOR:
        return f"it has no kernel for {device.type}"
    row = torch.linspace(-1, 1, 26 * 3 * 128, device=device).sin_().view(26, -1).to(dtype)
    found = []
    for one in (fused, by_group):
        qkv = row.clone().requires_grad_()
        try:
            out = one(qkv, ((2, 5), (4, 4)), 2)
            out.float().square().sum().backward()
        except (ImportError, RuntimeError, NotImplementedError, ValueError) as error:
            return (str(error).splitlines() or [type(error).__name__])[0]
        found += [(out.detach(), qkv.grad)]
    for here, there in zip(*found, strict=True):
        if not torch.allclose(here.float(), there.float(), rtol=0.05, atol=0.05):
            return f"it is off by {float((here - there).abs().max()):.2g} from torch's attention"
    return None


def _bounds(groups: Groups, device: torch.device) -> Tensor:
    """Where the crops of a row begin and the last one ends, int32, made on the device."""
    start, bounds = 0, [torch.zeros(1, dtype=torch.int32, device=device)]
    for crops, tokens in groups:
        bounds.append(start + tokens * torch.arange(1, crops + 1, dtype=torch.int32, device=device))
        start += crops * tokens
    return torch.cat(bounds)


_kept_bounds = functools.lru_cache(maxsize=64)(_bounds)


@functools.lru_cache(maxsize=64)
def _mask(groups: Groups) -> object:
    from xformers.ops.fmha import BlockDiagonalMask

    return BlockDiagonalMask.from_seqlens([tokens for crops, tokens in groups for _ in range(crops)])
