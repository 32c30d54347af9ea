"""A k-NN probe: how well the teacher's class tokens tell labelled pictures apart, while it learns."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training import config
from training.dinov2 import DINOv2
from training.knn import votes
from training.processes import Processes
from training.watch.images import centre, labelled

TEMPERATURE = 0.07


class KNNProbe:
    """The protocol of ``evaluation`` at the size of the global crops or another; every process embeds its share.

    Args:
        settings: folders, k, and the size of the pictures.
        recipe: whose global crops' size is meant where no other is given; pictures are brought to its channels.
        batch_size: images that a process embeds at a time.
        workers: threads that decode.
        processes: all of them ask for :meth:`top1` at the same steps.

    Raises:
        ValueError: a folder without images, a test class without train images, k above the number of those, or a
            size that patches do not fill.
    """

    def __init__(
        self, settings: config.Probe, recipe: config.Recipe, batch_size: int, workers: int, processes: Processes
    ) -> None:
        self._size, self._batch_size, self._workers = settings.size or recipe.crops.global_size, batch_size, workers
        if self._size % recipe.model.patch_size:
            raise ValueError(
                f"runtime.probe.size = {self._size} is no multiple of the patches of {recipe.model.patch_size} px; "
                f"use {max(round(self._size / recipe.model.patch_size), 1) * recipe.model.patch_size}"
            )
        self._channels, self._pixels, self._processes = recipe.model.in_channels, recipe.pixels, processes
        self.every_steps, self._k = settings.every_steps, settings.k
        self._train, train_classes = labelled(settings.train, "runtime.probe.train")
        self._test, test_classes = labelled(settings.test, "runtime.probe.test")
        names = sorted(set(train_classes))
        if unseen := sorted(set(test_classes) - set(names)):
            raise ValueError(
                f"runtime.probe.test = {settings.test!r}: the class {unseen[0]!r} is not in runtime.probe.train; "
                "add train images or remove the class"
            )
        if settings.k > len(self._train):
            raise ValueError(
                f"runtime.probe.k = {settings.k}: runtime.probe.train has only {len(self._train)} images; "
                f"use runtime.probe.k={len(self._train)} or less"
            )
        self._num_classes = len(names)
        device = processes.device
        self._train_labels, self._test_labels = (
            torch.tensor([names.index(name) for name in classes], device=device)
            for classes in (train_classes, test_classes)
        )

    @torch.no_grad()
    def top1(self, model: DINOv2) -> Tensor:
        """The share of test pictures whose class the weighted vote of the nearest train pictures names."""
        train, test = (self._embedded(model, paths) for paths in (self._train, self._test))
        of_classes = votes(train, self._train_labels, test, self._num_classes, [self._k], TEMPERATURE)[self._k]
        return (of_classes.argmax(1) == self._test_labels).float().mean()

    def _embedded(self, model: DINOv2, paths: Sequence[Path]) -> Tensor:
        """L2-normalised class tokens fp32 [n, D] of files."""
        rank, count, n = self._processes.rank, self._processes.count, len(paths)
        # as many for each process, since all take part whenever one uses sharded weights; the last may come twice
        own = [paths[min(i, n - 1)] for i in range(rank, -(-n // count) * count, count)]
        parts = []
        with ThreadPoolExecutor(max(self._workers, 1)) as threads:
            for start in range(0, len(own), self._batch_size):
                some = own[start : start + self._batch_size]
                images = torch.from_numpy(np.stack(list(threads.map(self._read, some))))
                parts.append(model.teacher_features(images.to(self._processes.device)).cls_token.float())
        every = self._processes.gather(F.normalize(torch.cat(parts), dim=-1))
        return every.unflatten(0, (count, -1)).transpose(0, 1).flatten(0, 1)[:n]

    def _read(self, path: Path) -> np.ndarray:
        try:
            return centre(path.read_bytes(), self._size, self._channels, self._pixels)
        except ValueError as error:
            raise ValueError(f"{path}: {error}; a probe skips no image: replace or remove the file") from error
