"""The patch-level term: masked patches are told from the rest (Zhou et al., 2022; DINOv2, 4)."""

from torch import Tensor


def ibot(losses: Tensor, mask_weights: Tensor, num_crops: int) -> Tensor:
    """(1 / num_crops) sum over crops of the mean cross-entropy over the crop's masked patches.

    Crops without a mask count in ``num_crops``, as upstream.

    Args:
        losses: [M] cross-entropies of the student at the masked patches with the teacher's at the same, seen whole.
        mask_weights: [M], 1 / (masked patches of the crop the patch lies in).
        num_crops: global crops in the batch, masked or not.
    """
    return (mask_weights * losses).sum() / num_crops
