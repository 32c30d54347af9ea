"""Scaled dot-product attention over packed crops: every crop attends to itself alone."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from training.models.fused import Fused, by_group
from training.models.packing import Groups, unpack


def attend(qkv: Tensor, groups: Groups, num_heads: int, fused: Fused = by_group) -> Tensor:
    """Queries, keys and values [n, 3 D] of packed crops to [n, D].

    On a CPU two matrix products and a softmax are faster than torch's fused kernel, above all in bf16; elsewhere, and
    where the compiler looks on, ``fused`` does it.
    """
    if qkv.device.type == "cpu" and not torch.compiler.is_compiling():
        return _Attention.apply(qkv, groups, num_heads)
    return fused(qkv, groups, num_heads)


class _Attention(torch.autograd.Function):
    """Keeps queries, keys, values and the logarithm of each softmax's sum; weights are computed again in backward."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, groups: Groups, num_heads: int) -> Tensor:
        out = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
        saved = []
        for crops, result in zip(unpack(qkv, groups), unpack(out, groups), strict=True):
            q, k, v = _by_head(crops, 3, num_heads).contiguous().flatten(1, 2)
            q *= q.shape[-1] ** -0.5
            scores = (q @ k.mT).float()
            log_sum = scores.logsumexp(-1, keepdim=True)
            weights = scores.sub_(log_sum).exp_().to(v.dtype)
            _by_head(result, 1, num_heads)[0].copy_((weights @ v).unflatten(0, (-1, num_heads)))
            saved += [q, k, v, log_sum]
        ctx.save_for_backward(out, *saved)
        ctx.groups, ctx.num_heads = groups, num_heads
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        out, *saved = ctx.saved_tensors
        of_qkv = grad.new_empty(len(grad), 3 * grad.shape[1])
        groups = zip(*(unpack(x, ctx.groups) for x in (of_qkv, grad, out)), strict=True)
        for i, (result, of_crops, crops) in enumerate(groups):
            q, k, v, log_sum = saved[4 * i : 4 * i + 4]
            of_out = _by_head(of_crops, 1, ctx.num_heads)[0].flatten(0, 1)
            # A softmax's gradient needs each row's sum of weights times their gradients, which is that of the output
            # times its gradient (Dao et al., 2022, section 3.1)
            dots = (of_out.float() * _by_head(crops, 1, ctx.num_heads)[0].flatten(0, 1)).sum(-1, keepdim=True)
            weights = (q @ k.mT).float().sub_(log_sum).exp_()
            of_scores = (of_out @ v.mT).float().sub_(dots).mul_(weights).to(v.dtype)
            of_q, of_k, of_v = _by_head(result, 3, ctx.num_heads)
            heads = (-1, ctx.num_heads)
            of_q.copy_((of_scores @ k).mul_(q.shape[-1] ** -0.5).unflatten(0, heads))
            of_k.copy_((of_scores.mT @ q).unflatten(0, heads))
            of_v.copy_((weights.to(v.dtype).mT @ of_out).unflatten(0, heads))
        return of_qkv, None, None


def _by_head(crops: Tensor, parts: int, num_heads: int) -> Tensor:
    """A view [parts, B, heads, T, d] of [B, T, parts heads d]."""
    return crops.unflatten(2, (parts, num_heads, -1)).permute(2, 0, 3, 1, 4)
