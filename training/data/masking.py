"""Block masks over the patches of the student's global crops (Bao et al., 2022, as DINOv2 uses them)."""

import math
from collections.abc import Sequence

import numpy as np

from training.config import Masking

Mask = np.ndarray[tuple[int, int], np.dtype[np.bool_]]

MIN_BLOCK = 4  # patches
MIN_ASPECT = 0.3
TRIES = 10  # blocks drawn before a mask is left short


def max_block(image_size: int, patch_size: int) -> int:
    """Upstream's cap on one block, in patches; the divisions run from left to right, as there."""
    return int(0.5 * image_size // patch_size * image_size // patch_size)


def batch_masks(
    num_crops: int, grid: int, cap: int, config: Masking, seed: list[int], crops: Sequence[int] | None = None
) -> np.ndarray:
    """Masks for the global crops of a batch, in random order.

    Of the crops, ``probability`` are masked; their shares of masked patches are drawn one from each of as many
    equal parts of ``ratio``, so that every batch has few and many. The mask of a crop depends on the batch's seed and
    its place in it, not on which other crops are asked for.

    Args:
        num_crops: global crops in the batch.
        grid: patches a side.
        cap: patches a block at most.
        config: shares.
        seed: of this batch.
        crops: places of those to return; all of them by default.

    Returns:
        bool [len(crops), grid * grid].
    """
    num_masked = int(num_crops * config.probability)
    bounds = np.linspace(*config.ratio, num_masked + 1)
    parts = np.random.default_rng(seed).permutation(num_crops)  # of the ratio; from num_masked on, none
    crops = range(num_crops) if crops is None else crops
    masks = np.zeros((len(crops), grid, grid), dtype=bool)
    for mask, crop in zip(masks, crops, strict=True):
        if (part := parts[crop]) >= num_masked:
            continue
        rng = np.random.default_rng([*seed, crop])
        target = max(int(grid * grid * rng.uniform(bounds[part], bounds[part + 1])), 1)
        add_blocks(mask, target, cap, rng)
        if config.exact_count or not mask.any():  # a masked crop has at least one masked patch
            free = np.flatnonzero(~mask)
            mask.flat[rng.permutation(free)[: target - mask.sum()]] = True
    return masks.reshape(len(crops), -1)


def add_blocks(mask: Mask, target: int, cap: int, rng: np.random.Generator) -> None:
    """Set random rectangles in ``mask`` until ``target`` patches are set, or no rectangle fits in ten tries."""
    rows, columns = mask.shape
    log_aspect = -math.log(MIN_ASPECT)
    tries = TRIES
    while (missing := target - int(mask.sum())) > 0 and tries:
        tries -= 1
        most = min(missing, cap)
        area = rng.uniform(min(MIN_BLOCK, most), max(MIN_BLOCK, most))
        aspect = math.exp(rng.uniform(-log_aspect, log_aspect))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height >= rows or width >= columns:
            continue
        top, left = rng.integers(rows - height + 1), rng.integers(columns - width + 1)
        block = mask[top : top + height, left : left + width]
        if 0 < block.size - block.sum() <= most:
            block[:] = True
            tries = TRIES
