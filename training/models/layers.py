"""Layers that keep less for the backward pass than autograd does by itself; numbers are those of the plain form.

Where autocast is on, products are computed in its dtype and everything else in that of the input. The compiler is given
the plain form: it computes again in backward what is cheap to compute, and fuses it.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Activation = Callable[[Tensor], Tensor]


def compute_dtype(x: Tensor) -> torch.dtype:
    """Of products: autocast's where it is on, else that of ``x``."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def norm_linear(x: Tensor, norm: nn.LayerNorm, linear: nn.Linear) -> Tensor:
    """``linear(norm(x))`` of [n, D], keeping x, not what the norm makes of it."""
    if torch.compiler.is_compiling():
        return linear(norm(x))
    return _NormLinear.apply(x, norm.weight, norm.bias, linear.weight, linear.bias, norm.eps, compute_dtype(x))


def activated_linear(x: Tensor, activation: Activation, weight: Tensor, bias: Tensor) -> Tensor:
    """``linear(activation(x))``, keeping x, not what the activation makes of it."""
    if torch.compiler.is_compiling():
        return F.linear(activation(x), weight, bias)
    return _ActivatedLinear.apply(x, activation, weight, bias)


def scaled(linear: nn.Linear, factor: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight and bias that give ``factor`` times what the layer gives; cheaper than to scale every token."""
    return (factor.unsqueeze(1) * linear.weight).to(dtype), (factor * linear.bias).to(dtype)


class _NormLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gain: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
    ) -> Tensor:
        normed, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], gain, shift, eps)
        cast = weight.to(dtype)
        ctx.save_for_backward(x, mean, rstd, gain, shift, cast)
        ctx.eps, ctx.dtype = eps, weight.dtype
        return F.linear(normed.to(dtype), cast, bias.to(dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, rstd, gain, shift, weight = ctx.saved_tensors
        normed = torch.native_layer_norm(x, x.shape[-1:], gain, shift, ctx.eps)[0].to(grad.dtype)
        of_weight, of_bias = _linear_gradients(grad, normed, ctx.dtype)
        of_x, of_gain, of_shift = torch.ops.aten.native_layer_norm_backward(
            (grad @ weight).to(x.dtype), x, x.shape[-1:], mean, rstd, gain, shift, (True, True, True)
        )
        return of_x, of_gain, of_shift, of_weight, of_bias, None, None


class _ActivatedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: Activation, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.activation = activation
        return F.linear(activation(x), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            active = ctx.activation(x)
        of_weight, of_bias = _linear_gradients(grad, active.detach(), weight.dtype)
        (of_x,) = torch.autograd.grad(active, x, grad @ weight)
        return of_x, None, of_weight, of_bias


def _linear_gradients(grad: Tensor, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return (grad.T @ x).to(dtype), grad.sum(0, dtype=dtype)
