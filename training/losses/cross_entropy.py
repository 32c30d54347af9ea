"""Cross-entropy between soft targets and scores over many prototypes, in chunks of prototypes.

Neither the student's probabilities nor its scores are ever whole in memory: forward keeps a running logarithm of their
sum, and backward computes the scores again.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Targets = Callable[[slice], Tensor]  # fp32 [m, k], the targets of some of the prototypes

# scores at a time: on a CPU, so that they stay in its cache; on CUDA, so that they take no gigabytes
CHUNK = {"cpu": 2**21, "cuda": 2**26}


def cross_entropy(
    x: Tensor,
    directions: Tensor,
    gains: Tensor,
    targets: Targets,
    temp: float,
    dtype: torch.dtype,
    chunk: int | None = None,
) -> Tensor:
    """-sum_k targets_k log softmax(scores / temp)_k, in fp32; a score is the cosine with a prototype times its gain.

    Targets may sum to any number: a sum of several distributions gives the sum of their cross-entropies.

    Args:
        x: fp32 [m, d], of unit length.
        directions: [K, d], of any length; in bf16 where processes gather parameters so.
        gains: [K, 1], of the same dtype.
        targets: of a range of prototypes; asked for each range twice.
        temp: the student's temperature.
        dtype: of the matrix products.
        chunk: scores that are in memory at a time; by default :data:`CHUNK`.

    Returns:
        fp32 [m].
    """
    with torch.autocast(x.device.type, enabled=False):
        return _CrossEntropy.apply(x, directions, gains, targets, temp, dtype, chunk or CHUNK[x.device.type])


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        directions: Tensor,
        gains: Tensor,
        targets: Targets,
        temp: float,
        dtype: torch.dtype,
        chunk: int,
    ) -> Tensor:
        lengths = torch.linalg.vector_norm(directions, dim=1, keepdim=True, dtype=x.dtype).clamp_(min=1e-12)
        ctx.save_for_backward(x, directions, gains, lengths)
        ctx.targets, ctx.temp, ctx.dtype, ctx.chunk = targets, temp, dtype, chunk
        log_sum = x.new_full((len(x),), -torch.inf)
        total, dots = torch.zeros_like(log_sum), torch.zeros_like(log_sum)
        scaled = (x / temp).to(dtype)
        for part in _chunks(len(x), len(directions), chunk):
            scores = (scaled @ (directions[part] * (gains[part] / lengths[part])).to(dtype).T).float()
            target = targets(part)
            log_sum = torch.logaddexp(log_sum, scores.logsumexp(1))
            total += target.sum(1)
            dots += torch.linalg.vecdot(target, scores)
        ctx.sums = log_sum, total
        return total * log_sum - dots

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, directions, gains, lengths = ctx.saved_tensors
        (log_sum, total), targets = ctx.sums, ctx.targets
        del ctx.sums, ctx.targets  # the graph may outlive this pass, and they are large
        of_x, of_directions, of_gains = torch.zeros_like(x), torch.empty_like(directions), torch.empty_like(gains)
        scaled = (x / ctx.temp).to(ctx.dtype)
        log_sum, share = log_sum.unsqueeze(1), (grad * total).unsqueeze(1)
        for part in _chunks(len(x), len(directions), ctx.chunk):
            factor, direction = gains[part] / lengths[part], directions[part].to(x.dtype)
            weight = (direction * factor).to(ctx.dtype)
            of_scores = (scaled @ weight.T).float().sub_(log_sum).exp_().mul_(share)
            of_scores = of_scores.addcmul_(targets(part), grad.unsqueeze(1), value=-1).to(ctx.dtype)
            of_x += of_scores @ weight
            of_weight = (of_scores.T @ scaled).float()  # the weight is gains * directions / lengths
            along = torch.linalg.vecdot(of_weight, direction).unsqueeze(1) / lengths[part]
            of_gains[part] = along
            of_directions[part] = of_weight.mul_(factor).addcmul_(along * factor / lengths[part], direction, value=-1)
        return of_x / ctx.temp, of_directions, of_gains, None, None, None, None


def _chunks(rows: int, prototypes: int, chunk: int) -> Iterator[slice]:
    width = max(chunk // max(rows, 1), 1)
    return (slice(start, min(start + width, prototypes)) for start in range(0, prototypes, width))
