"""The patch-level term: masked patches are told from the rest (Zhou et al., 2022; DINOv2, 4)."""

from torch import Tensor

from training.losses.cross_entropy import cross_entropy


def ibot(scores: Tensor, targets: Tensor, mask_weights: Tensor, num_crops: int, student_temp: float) -> Tensor:
    """(1 / num_crops) sum over crops of the mean cross-entropy over the crop's masked patches.

    Crops without a mask count in ``num_crops``, as upstream.

    Args:
        scores: [M, K] of the student at the masked patches.
        targets: [M, K] of the teacher at the same patches, seen whole.
        mask_weights: [M], 1 / (masked patches of the crop the patch lies in).
        num_crops: global crops in the batch, masked or not.
        student_temp: the student's temperature.
    """
    return (mask_weights * cross_entropy(scores, targets, student_temp)).sum() / num_crops
