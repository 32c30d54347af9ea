"""Batches: what step ``step`` sees is a pure function of the release, the recipe and the step, whoever computes it."""

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from training.config import Recipe
from training.data.augment import Views, multi_crop
from training.data.colour_on_device import coloured_batch
from training.data.masking import batch_masks, max_block
from training.data.order import sample_at
from training.data.picture import open_picture
from training.data.source import Source
from training.preemption import leave_group
from training.processes import ALONE, Processes

MAX_UNREADABLE = 100  # images in a row
_CROPS, _MASKS = 0, 1  # streams of random numbers


class Batch(NamedTuple):
    """One step's input. Crops are ordered crop by crop: all first global crops, then all second ones."""

    global_crops: Tensor  # uint8 [2 B, S, S, C]
    local_crops: Tensor  # uint8 [L B, s, s, C]
    masks: Tensor  # bool [2 B, N]
    mask_indices: Tensor  # int64 [M], of the masked patches in the flat masks
    mask_weights: Tensor  # fp32 [M], 1 / (masked patches of the crop)
    num_unreadable: Tensor  # int64 scalar, images that were skipped
    colours: Tensor  # fp32 [(2 + L) B, 8], changes of colour left to do, one crop after another; [0, 8] where none are

    def to(self, device: torch.device) -> "Batch":
        """Copy to a device without waiting for it, and change there the colours that workers left to it."""
        there = Batch(*(tensor.to(device, non_blocking=True) for tensor in self))
        if not len(self.colours):
            return there
        of_global, of_local = self.colours.split([len(self.global_crops), len(self.local_crops)])
        return there._replace(
            global_crops=coloured_batch(there.global_crops, of_global),
            local_crops=coloured_batch(there.local_crops, of_local),
            colours=there.colours[:0],
        )

    def parts(self, count: int) -> list["Batch"]:
        """The batch as ``count`` batches of as many samples each; unreadable images are counted in the first.

        To be called on the host, since the number of masked patches of a part is a shape.
        """
        if count == 1:
            return [self]
        num_samples, num_patches = len(self.masks) // 2, self.masks.shape[1]
        size = num_samples // count
        crop, patch = self.mask_indices // num_patches, self.mask_indices % num_patches
        sample = crop % num_samples

        def of(rows: Tensor, first: int) -> Tensor:
            return rows.unflatten(0, (len(rows) // num_samples, num_samples))[:, first : first + size].flatten(0, 1)

        found = []
        for first in range(0, num_samples, size):
            here = (sample >= first) & (sample < first + size)
            place = crop // num_samples * size + sample - first
            found.append(
                Batch(
                    global_crops=of(self.global_crops, first),
                    local_crops=of(self.local_crops, first),
                    masks=of(self.masks, first),
                    mask_indices=(place * num_patches + patch)[here],
                    mask_weights=self.mask_weights[here],
                    num_unreadable=self.num_unreadable * (first == 0),
                    colours=of(self.colours, first),
                )
            )
        return found


class Batches(Dataset[Batch]):
    """One process's part of each batch, by step: the samples of all processes, in order, are those of one.

    Args:
        release: the images.
        recipe: ``batch_size_global`` is a multiple of ``count``.
        processes: this one, and how many there are.
        first_step: of the phase that the recipe is of.
        first_sample: of the phase.
    """

    def __init__(
        self,
        release: Source,
        recipe: Recipe,
        processes: Processes = ALONE,
        first_step: int = 0,
        first_sample: int = 0,
    ) -> None:
        self.release, self.recipe, self.rank, self.count = release, recipe, processes.rank, processes.count
        self.first_step, self.first_sample = first_step, first_sample

    def __getitem__(self, step: int) -> Batch:
        """The part of one step."""
        recipe, size = self.recipe, self.recipe.batch_size_global
        part = range(self.rank * size // self.count, (self.rank + 1) * size // self.count)
        counter = self.first_sample + (step - self.first_step) * size
        views, skipped = zip(*(self._views(counter + i) for i in part), strict=True)
        grid = recipe.crops.global_size // recipe.model.patch_size
        cap = max_block(recipe.crops.global_size, recipe.model.patch_size)
        crops = [*part, *(size + i for i in part)]
        masks = torch.from_numpy(batch_masks(2 * size, grid, cap, recipe.masking, [recipe.seed, _MASKS, step], crops))
        return Batch(
            global_crops=_crop_by_crop([view.global_crops for view in views]),
            local_crops=_crop_by_crop([view.local_crops for view in views]),
            masks=masks,
            mask_indices=masks.flatten().nonzero().flatten(),
            mask_weights=(1 / masks.sum(1).clamp(min=1)).unsqueeze(1).expand_as(masks)[masks],
            num_unreadable=torch.tensor(sum(skipped)),
            colours=_crop_by_crop([view.colours for view in views]),
        )

    def _views(self, counter: int) -> tuple[Views, int]:
        """The crops of the sample at ``counter``, and how many images could not be decoded on the way to it.

        An unreadable image is replaced by the next one in the order, so that a batch has the same content on
        every run and the images after it keep their places.
        """
        recipe, why = self.recipe, ""
        for skipped in range(MAX_UNREADABLE):
            position = sample_at(counter + skipped, len(self.release), recipe.seed)
            data = self.release.read(position)
            rng = np.random.default_rng([recipe.seed, _CROPS, counter])
            try:
                picture = open_picture(data, recipe.model.in_channels, recipe.pixels)
                return multi_crop(picture, recipe.crops, rng), skipped
            except ValueError as error:
                why = f"{self.release.name(position)}: {error}"
        raise ValueError(
            f"{MAX_UNREADABLE} images in a row cannot be decoded, the last is {why}; does data.release name images, "
            "and recipe.model.in_channels their channels?"
        )


def batches(data: Batches, start: int, workers: int, device: torch.device) -> Iterator[Batch]:
    """The steps from ``start`` to the end of the phase, prepared ahead by ``workers`` processes (0: by this one)."""
    return iter(
        DataLoader(
            data,
            batch_size=None,  # the dataset's items are whole batches
            sampler=range(start, data.first_step + data.recipe.steps),
            num_workers=workers,
            worker_init_fn=_begin_worker,
            pin_memory=device.type == "cuda",
            # a fork of a process that has threads (Arrow's, a JVM's bridge) may inherit a lock that nobody frees
            multiprocessing_context="forkserver" if workers else None,
        )
    )


def _begin_worker(_: int) -> None:
    leave_group()
    cv2.setNumThreads(1)  # one process is one core; torch does the same by itself


def _crop_by_crop(views: list[np.ndarray]) -> Tensor:
    """B arrays [C, ...] to [C B, ...]."""
    return torch.from_numpy(np.stack(views, axis=1)).flatten(0, 1)
