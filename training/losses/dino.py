"""The image-level term: the class tokens of two crops of one image agree (Caron et al., 2021; DINOv2, 4)."""

import torch
from torch import Tensor


def dino_targets(targets: Tensor, num_local: int) -> Tensor:
    """What each student crop is compared with.

    Every global crop follows the other one of its image, every local crop follows both: cross-entropy is linear in
    the target, so one pass with their sum covers two pairs.

    Args:
        targets: [2 B, k], the teacher's distributions for the global crops, or some columns of them.
        num_local: L.

    Returns:
        [(2 + L) B, k]; rows of local crops sum to 2.
    """
    first, second = targets.chunk(2)
    return torch.cat((second, first, *[first + second] * num_local))


def dino_terms(losses: Tensor, num_local: int) -> dict[str, Tensor]:
    """The objective's two scalars; each pair of two crops weighs 1 / (2 L + 2), which is 1 / 18 for L = 8.

    Args:
        losses: [(2 + L) B] cross-entropies with :func:`dino_targets`, crop by crop.
        num_local: L.
    """
    crops = losses.unflatten(0, (2 + num_local, -1)).mean(1) / (2 * num_local + 2)
    terms = {"dino_global": crops[:2].sum()}
    return terms | {"dino_local": crops[2:].sum()} if num_local else terms
