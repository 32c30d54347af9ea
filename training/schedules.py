"""Everything that changes with the step: pure functions of the recipe and the step."""

import math
from typing import NamedTuple

from training.config import Recipe


class Now(NamedTuple):
    """The scheduled values of one step."""

    lr: float
    last_layer_lr: float
    weight_decay: float
    momentum: float
    teacher_temp: float


def at(recipe: Recipe, step: int) -> Now:
    """The values at ``step``, counted from 0."""
    optimiser, teacher = recipe.optimiser, recipe.teacher
    peak = optimiser.base_lr * math.sqrt(recipe.batch_size_global / 1024)
    warmup = optimiser.warmup_steps
    if step < warmup:
        lr = linear(0.0, peak, step, warmup)
    else:
        lr = cosine(peak, optimiser.min_lr, step - warmup, recipe.steps - warmup)
    return Now(
        lr=lr,
        last_layer_lr=0.0 if step < optimiser.freeze_last_layer_steps else lr,
        weight_decay=cosine(*optimiser.weight_decay, step, recipe.steps),
        momentum=cosine(*teacher.momentum, step, recipe.steps),
        teacher_temp=linear(*teacher.temp, step, teacher.temp_warmup_steps),
    )


def cosine(first: float, last: float, step: int, num_steps: int) -> float:
    """Half a cosine from ``first`` at step 0 towards ``last``, reached at ``num_steps``."""
    return last + 0.5 * (first - last) * (1 + math.cos(math.pi * step / num_steps))


def linear(first: float, last: float, step: int, num_steps: int) -> float:
    """A line from ``first`` at step 0 to ``last`` at step ``num_steps - 1``, then constant."""
    return first + (last - first) * min(step / max(num_steps - 1, 1), 1.0) if num_steps else last
