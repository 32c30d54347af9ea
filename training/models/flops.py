"""How many floating-point operations a step needs: counted from the recipe, to compare a run with its hardware."""

from training.config import Architecture, Head, Recipe
from training.models.vit import SIZES, gated_width

FORWARD, WITH_BACKWARD = 1, 3  # a product's gradients are two products of the same size


def step_flops(recipe: Recipe) -> float:
    """FLOP of one step over all processes: the products of student and teacher, forward and backward.

    A multiplication and an addition are two. What the method needs is counted, as for MFU (Chowdhery et al., 2022,
    appendix B): not what backward computes a second time to save memory, and no work on the crops that stochastic
    depth leaves out. Masks count with their mean; norms, Sinkhorn and the optimiser do not count.
    """
    losses, crops, model = recipe.losses, recipe.crops, recipe.model
    num_global = 2 * recipe.batch_size_global
    num_local = crops.num_local * recipe.batch_size_global if losses.dino_weight else 0
    patches = (crops.global_size // model.patch_size) ** 2
    masked = int(num_global * recipe.masking.probability) * sum(recipe.masking.ratio) / 2 * patches
    masked = masked if losses.ibot_weight else 0.0
    of_teacher = backbone_flops(model, {crops.global_size: num_global}, num_global + masked)
    of_student = backbone_flops(
        model,
        {crops.global_size: num_global, crops.local_size: num_local},
        num_global + num_local + masked,
        recipe.model.drop_path,
        WITH_BACKWARD,
    )
    class_head, patch_head = recipe.heads.dino, recipe.heads.ibot or recipe.heads.dino
    dim = SIZES[model.arch][0]
    of_heads = masked * head_flops(dim, patch_head) * (FORWARD + WITH_BACKWARD)
    if losses.dino_weight:
        of_heads += head_flops(dim, class_head) * (num_global * (FORWARD + WITH_BACKWARD) + num_local * WITH_BACKWARD)
    return of_teacher + of_student + of_heads


def backbone_flops(
    model: Architecture, crops: dict[int, int], num_selected: float, skipped: float = 0.0, passes: int = FORWARD
) -> float:
    """FLOP of the backbone.

    Args:
        model: its architecture.
        crops: number of crops by side in px.
        num_selected: tokens that the last feed-forward sees.
        skipped: share of the crops that skip a residual branch.
        passes: FORWARD, or WITH_BACKWARD; the patches' own gradient is never needed.
    """
    dim, depth, _ = SIZES[model.arch]
    feed_forward = 2 * dim * (3 * gated_width(dim) if model.ffn == "swiglu" else 8 * dim)
    total = 0.0
    for side, number in crops.items():
        patches = (side // model.patch_size) ** 2
        tokens = 1 + model.num_register_tokens + patches
        embed = 2 * patches * dim * model.in_channels * model.patch_size**2
        attention = tokens * 2 * dim * 4 * dim + 2 * 2 * tokens**2 * dim
        blocks = depth * attention + (depth - 1) * tokens * feed_forward
        total += number * (embed * min(passes, 2) + (1 - skipped) * blocks * passes)
    return total + (1 - skipped) * num_selected * feed_forward * passes


def head_flops(dim: int, head: Head) -> float:
    """FLOP of one token's way through a head, forward."""
    return 2.0 * (
        dim * head.hidden + head.hidden**2 + head.hidden * head.bottleneck + head.bottleneck * head.prototypes
    )
