"""Crops of several sizes in one row of tokens, and the part of them that takes a residual branch.

The row is [n, D]: group after group, in a group crop after crop, in a crop token after token. What works on single
tokens (norms, linear layers, activations) runs once over the row; attention runs group by group.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Groups = tuple[tuple[int, int], ...]  # (crops, tokens of each) of every group


def pack(crops: Sequence[Tensor]) -> tuple[Tensor, Groups]:
    """Groups of crops [B, T, D] to one row [n, D]."""
    return torch.cat([group.flatten(0, 1) for group in crops]), tuple((len(x), x.shape[1]) for x in crops)


def unpack(row: Tensor, groups: Groups) -> Iterator[Tensor]:
    """Views [B, T, ...] of the groups in a row [n, ...]."""
    start = 0
    for crops, tokens in groups:
        yield row[start : start + crops * tokens].unflatten(0, (crops, tokens))
        start += crops * tokens


class Subset:
    """The crops of every group that take a residual branch: stochastic depth by batch subset (DINOv2, section 5).

    As many crops are drawn at every call, so shapes are static. The branch of those that take it is multiplied by
    B / (crops kept), so that its expectation stays.

    Args:
        groups: of the row.
        rate: share of the crops that skip the branch; one crop of a group always takes it.
        device: where the row is.
    """

    def __init__(self, groups: Groups, rate: float, device: torch.device) -> None:
        self.groups = groups
        self.kept = tuple((num_kept(crops, rate), tokens) for crops, tokens in groups)
        self.chosen = [
            torch.randperm(crops, device=device)[:kept] for (crops, _), (kept, _) in zip(groups, self.kept, strict=True)
        ]

    def parts(self, row: Tensor, kept: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, float]]:
        """For every group its crops in the row and in what was taken, both [B, T D]; which were taken; their factor."""
        whole, part = unpack(row, self.groups), unpack(kept, self.kept)
        for x, taken, chosen in zip(whole, part, self.chosen, strict=True):
            yield x.flatten(1), taken.flatten(1), chosen, len(x) / max(len(taken), 1)

    def factors(self) -> Tensor:
        """What every token's branch is multiplied by, [n]: 0 where it is skipped."""
        every = []
        for (crops, tokens), chosen in zip(self.groups, self.chosen, strict=True):
            factor = torch.zeros(crops, device=chosen.device)
            factor.index_fill_(0, chosen, crops / max(len(chosen), 1))
            every.append(factor.repeat_interleave(tokens))
        return torch.cat(every)


def num_kept(crops: int, rate: float) -> int:
    """How many of a group's crops take a branch; at least one, where there is one."""
    return min(max(int(crops * (1 - rate)), 1), crops)


def take(row: Tensor, subset: Subset) -> tuple[Tensor, Tensor]:
    """The row, to be handed to :func:`put`, and the tokens [m, D] that take the branch.

    The row belongs to the two from here on: ``put`` writes into it, and backward writes into the gradient that comes
    back along it, so nothing else may read either. The compiler, which sees both, is given the plain form.
    """
    if torch.compiler.is_compiling():
        parts = zip(unpack(row, subset.groups), subset.chosen, strict=True)
        return row, torch.cat([x[chosen].flatten(0, 1) for x, chosen in parts])
    return _Take.apply(row, subset)


def put(row: Tensor, branch: Tensor, subset: Subset) -> Tensor:
    """Add what the branch made of the tokens that took it, in place."""
    if torch.compiler.is_compiling():
        parts = subset.parts(row, branch.to(row.dtype))
        return torch.cat(
            [x.index_add(0, chosen, added, alpha=factor).view(-1, row.shape[1]) for x, added, chosen, factor in parts]
        )
    return _Put.apply(row, branch, subset)


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, row: Tensor, subset: Subset) -> tuple[Tensor, Tensor]:
        ctx.subset = subset
        ctx.mark_dirty(row)  # it is not; but only so does backward see one gradient of the row, not a sum of two
        kept = row.new_empty(sum(crops * tokens for crops, tokens in subset.kept), row.shape[1])
        for x, taken, chosen, _ in subset.parts(row, kept):
            torch.index_select(x, 0, chosen, out=taken)
        return row, kept

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, row: Tensor, kept: Tensor) -> tuple[Tensor, None]:
        for x, taken, chosen, _ in ctx.subset.parts(row, kept):
            x.index_add_(0, chosen, taken)
        return row, None


class _Put(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, row: Tensor, branch: Tensor, subset: Subset) -> Tensor:
        ctx.subset, ctx.dtype = subset, branch.dtype
        ctx.mark_dirty(row)
        for x, added, chosen, factor in subset.parts(row, branch):
            x.index_add_(0, chosen, added.to(x.dtype), alpha=factor)
        return row

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, row: Tensor) -> tuple[Tensor, Tensor, None]:
        row = row.contiguous()
        branch = row.new_empty(sum(crops * tokens for crops, tokens in ctx.subset.kept), row.shape[1], dtype=ctx.dtype)
        for x, taken, chosen, factor in ctx.subset.parts(row, branch):
            torch.mul(x[chosen], factor, out=taken)
        return row, branch, None
