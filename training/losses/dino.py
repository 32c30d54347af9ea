"""The image-level term: the class tokens of two crops of one image agree (Caron et al., 2021; DINOv2, 4)."""

from torch import Tensor

from training.losses.cross_entropy import cross_entropy


def dino_local(local_scores: Tensor, targets: Tensor, student_temp: float) -> Tensor:
    """Every local crop against every global crop; each pair weighs 1 / (number of all pairs).

    Args:
        local_scores: [L, B, K] of the student.
        targets: [2, B, K], the teacher's distributions for the global crops.
        student_temp: the student's temperature.
    """
    # Cross-entropy is linear in the target, so one pass with the summed target covers both global crops
    pairs = cross_entropy(local_scores, targets.sum(0), student_temp)  # [L, B]
    return pairs.mean(1).sum() / num_pairs(len(local_scores))


def dino_global(global_scores: Tensor, targets: Tensor, student_temp: float, num_local: int) -> Tensor:
    """Each global crop against the other one; each pair weighs 1 / (number of all pairs).

    Args:
        global_scores: [2, B, K] of the student, which saw the crops masked.
        targets: [2, B, K] of the teacher, which saw them whole.
        student_temp: the student's temperature.
        num_local: L, which the weight depends on.
    """
    pairs = cross_entropy(global_scores, targets.flip(0), student_temp)  # [2, B]
    return pairs.mean(1).sum() / num_pairs(num_local)


def num_pairs(num_local: int) -> int:
    """Pairs of two global and ``num_local`` local crops: 2 L + 2, which is 18 for L = 8."""
    return 2 * num_local + 2
