"""Sinkhorn-Knopp: the teacher's scores as a balanced assignment to the prototypes."""

from collections.abc import Callable

import torch
from torch import Tensor

# scores at a time: on a CPU, so that what is made of them stays in its cache; on CUDA, so that it takes no gigabytes
CHUNK = {"cpu": 2**20, "cuda": 2**26}


def over_rows(scores: Tensor) -> Tensor:
    """Log-sum-exp over the rows [B, K], as [1, K]."""
    return scores.logsumexp(0, keepdim=True)


@torch.autocast("cuda", enabled=False)
@torch.autocast("cpu", enabled=False)
def sinkhorn_(
    scores: Tensor,
    temp: float,
    num_iterations: int = 3,
    weights: Tensor | None = None,
    logsumexp: Callable[[Tensor], Tensor] = over_rows,
    total: Callable[[Tensor], Tensor] = torch.clone,
) -> Tensor:
    """Balanced assignment of a batch to the prototypes (Caron et al., 2020), written over the scores.

    Upstream exponentiates scores / temp as they are, which overflows from 3.6 at temp 0.04. Here the first iteration
    is done on logarithms. After it every sample's row sums to 1 and every prototype's column to at least 1 / K, so
    that the others can do with factors of rows and columns. The constants 1 / K and 1 / B of the published form cancel
    and are left out. Where upstream does not overflow, the results are equal.

    Args:
        scores: fp32 [B, K] of the teacher; overwritten.
        temp: the teacher's temperature.
        num_iterations: how often prototypes, then samples, are normalised.
        weights: 0 or 1 for each row [B]: a row of weight 0 is as if it were not there. By default all count.
        logsumexp: over all rows, those of other processes among them.
        total: the sum over processes.

    Returns:
        ``scores``; rows that count sum to 1, and columns over all processes to about B / K.
    """
    scores.div_(temp)
    samples = scores.new_ones(len(scores)) if weights is None else weights.to(scores.dtype)
    shift = None if weights is None else samples.log().unsqueeze(1)
    parts = (scores[:, part] for part in _columns(scores))
    columns = [over_rows(part if shift is None else part + shift) for part in parts]
    scores.sub_(logsumexp(torch.cat(columns, dim=1)))
    for rows in scores.split(max(CHUNK[scores.device.type] // scores.shape[1], 1)):
        rows.copy_(rows.softmax(1))
    counts = samples
    for _ in range(num_iterations - 1):
        prototypes = total(samples @ scores).reciprocal()
        prototypes = prototypes / prototypes.amax()  # else both factors drift apart, as rows are not as many as columns
        samples = (scores @ prototypes).reciprocal() * counts
    if num_iterations > 1:
        for part in _columns(scores):
            scores[:, part].mul_(prototypes[part]).mul_(samples.unsqueeze(1))
    return scores


def _columns(scores: Tensor) -> list[slice]:
    width = max(CHUNK[scores.device.type] // max(len(scores), 1), 1)
    return [slice(start, start + width) for start in range(0, scores.shape[1], width)]
