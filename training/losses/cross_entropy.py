"""Cross-entropy between soft targets and scores, without the student's probabilities ever in memory."""

from torch import Tensor


def cross_entropy(scores: Tensor, targets: Tensor, temp: float) -> Tensor:
    """-sum_k targets_k log softmax(scores / temp)_k, in fp32.

    Targets may sum to any number: a sum of several distributions gives the sum of their cross-entropies.

    Args:
        scores: [..., K] of the student.
        targets: [..., K] of the teacher, broadcastable to ``scores``.
        temp: the student's temperature.

    Returns:
        [...], one value a row.
    """
    scaled = scores.float() / temp
    return targets.sum(-1) * scaled.logsumexp(-1) - (targets * scaled).sum(-1)
