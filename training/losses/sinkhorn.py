"""Sinkhorn-Knopp: the teacher's scores as a balanced assignment to the prototypes."""

from collections.abc import Callable

from torch import Tensor


def over_rows(scores: Tensor) -> Tensor:
    """Log-sum-exp over the rows [B, K], as [1, K]."""
    return scores.logsumexp(0, keepdim=True)


def sinkhorn(
    scores: Tensor, temp: float, num_iterations: int = 3, logsumexp: Callable[[Tensor], Tensor] = over_rows
) -> Tensor:
    """Balanced assignment of a batch to the prototypes (Caron et al., 2020), in the log domain and fp32.

    Upstream exponentiates scores / temp as they are, which overflows from 3.6 at temp 0.04; here every normalisation
    is a logsumexp, whose maximum is subtracted. The constants 1 / K and 1 / B of the published form cancel and
    are left out. Where upstream does not overflow, the results are equal.

    Args:
        scores: [B, K] of the teacher.
        temp: the teacher's temperature.
        num_iterations: how often prototypes, then samples, are normalised.
        logsumexp: over all rows, those of other processes among them.

    Returns:
        [B, K]; rows sum to 1, and columns to about B / K.
    """
    log_q = scores.float() / temp
    for _ in range(num_iterations):
        log_q = log_q - logsumexp(log_q)
        log_q = log_q - log_q.logsumexp(1, keepdim=True)
    return log_q.exp()
