"""Sinkhorn-Knopp: the teacher's scores as a balanced assignment to the prototypes."""

from torch import Tensor


def sinkhorn(scores: Tensor, temp: float, num_iterations: int = 3) -> Tensor:
    """Balanced assignment of a batch to the prototypes (Caron et al., 2020), in the log domain and fp32.

    Upstream exponentiates scores / temp as they are, which overflows from 3.6 at temp 0.04; here every normalisation
    is a logsumexp, whose maximum is subtracted. The constants 1 / K and 1 / B of the published form cancel and
    are left out. Where upstream does not overflow, the results are equal.

    Args:
        scores: [B, K] of the teacher.
        temp: the teacher's temperature.
        num_iterations: how often prototypes, then samples, are normalised.

    Returns:
        [B, K]; rows sum to 1, and columns to about B / K.
    """
    log_q = scores.float() / temp
    for _ in range(num_iterations):
        log_q = log_q - log_q.logsumexp(0, keepdim=True)
        log_q = log_q - log_q.logsumexp(1, keepdim=True)
    return log_q.exp()
