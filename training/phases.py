"""The phases of a recipe: pre-training, and what may follow it with sizes, batches and schedules of its own."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from training.config import Recipe


class Phase(NamedTuple):
    """A stretch of steps under one recipe."""

    recipe: Recipe
    first_step: int  # updates before it
    first_sample: int  # samples shown before it

    @property
    def last_step(self) -> int:
        """Updates when it is over."""
        return self.first_step + self.recipe.steps


def phases(recipe: Recipe) -> list[Phase]:
    """All phases in order; their steps and samples are counted on."""
    found: list[Phase] = []
    step = sample = 0
    for part in (recipe, *recipe.phases):
        found.append(Phase(part, step, sample))
        step += part.steps
        sample += part.steps * part.batch_size_global
    return found


def phase_at(recipe: Recipe, step: int) -> Phase:
    """The phase that makes update ``step``, counted from 1; the first one at 0.

    A checkpoint at the end of a phase is thus of that phase: the next begins anew wherever it is entered from.
    """
    return next(phase for phase in phases(recipe) if step <= phase.last_step)


def resized_positions(pos_embed: Tensor, num_positions: int) -> Tensor:
    """A position embedding [1, 1 + g * g, D] for another grid, by bicubic interpolation; [1, num_positions, D]."""
    old, new = (round((n - 1) ** 0.5) for n in (pos_embed.shape[1], num_positions))
    image = pos_embed[:, 1:].float().unflatten(1, (old, old)).permute(0, 3, 1, 2)
    image = F.interpolate(image, size=(new, new), mode="bicubic")
    return torch.cat((pos_embed[:, :1], image.flatten(2).transpose(1, 2).to(pos_embed.dtype)), dim=1)
