"""Sinkhorn-Knopp: the teacher's scores as a balanced assignment to the prototypes."""

import torch
from torch import Tensor

from training.losses.reduce import AllReduce, alone

CHUNK = 2**20  # scores at a time, so that what is made of them stays in a processor's cache


def sinkhorn_(scores: Tensor, temp: float, num_iterations: int = 3, all_reduce: AllReduce = alone) -> Tensor:
    """Balanced assignment of a batch to the prototypes (Caron et al., 2020), written over the scores.

    Upstream exponentiates scores / temp as they are, which overflows from 3.6 at temp 0.04. Here the first iteration
    is done on logarithms. After it every sample's row sums to 1 and every prototype's column to at least 1 / K, so
    that the others can do with factors of rows and columns. The constants 1 / K and 1 / B of the published form cancel
    and are left out. Where upstream does not overflow, the results are equal.

    Args:
        scores: fp32 [B, K] of the teacher; overwritten.
        temp: the teacher's temperature.
        num_iterations: how often prototypes, then samples, are normalised.
        all_reduce: over the processes that share a batch; all must call, also with no sample.

    Returns:
        ``scores``; rows sum to 1, and columns over all processes to about B / K.
    """
    num_samples, num_prototypes = scores.shape
    scores.div_(temp)
    peak = all_reduce(scores.amax(0) if num_samples else scores.new_full((num_prototypes,), -torch.inf), "max")
    columns = scores.new_zeros(num_prototypes)
    for part in _columns(scores):
        columns[part] = (scores[:, part] - peak[part]).exp_().sum(0)
    scores.sub_(peak + all_reduce(columns, "sum").log_())
    for rows in scores.split(max(CHUNK // num_prototypes, 1)):
        torch.softmax(rows, 1, out=rows)
    samples = scores.new_ones(num_samples)
    for _ in range(num_iterations - 1):
        prototypes = all_reduce(samples @ scores, "sum").reciprocal_()
        samples = (scores @ prototypes).reciprocal_()
    if num_iterations > 1:
        for part in _columns(scores):
            scores[:, part].mul_(prototypes[part]).mul_(samples.unsqueeze(1))
    return scores


def _columns(scores: Tensor) -> list[slice]:
    width = max(CHUNK // max(len(scores), 1), 1)
    return [slice(start, start + width) for start in range(0, scores.shape[1], width)]
