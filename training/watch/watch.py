"""All that looks at a run from beside its loop. None of it changes what is learnt."""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from training import config, run_folder
from training.atomic import write_atomically
from training.data.loader import Batch
from training.data.source import Source
from training.models.flops import step_flops
from training.watch.alarms import Alarms
from training.watch.health import Health
from training.watch.images import centre
from training.watch.machine import peak
from training.watch.probe import KNNProbe
from training.watch.records import Records, TensorBoard, WandB

if TYPE_CHECKING:
    from training.train import Trainer

PATCHES_OF = 6  # images in a picture


class Watch:
    """Watches one phase: :meth:`look` after every update in every process, :meth:`read` what the first has written.

    Args:
        trainer: in the phase; its model is given a health panel to note in.
        release: some of its images are in the pictures of patches.
        runtime: what to watch, and how often.
        folder: of the run, with the metrics of the updates done.

    Raises:
        ValueError: a probe that cannot be made, or wandb asked for and absent.
    """

    def __init__(self, trainer: "Trainer", release: Source, runtime: config.Runtime, folder: Path) -> None:
        phase, processes = trainer.phase, trainer.processes
        recipe = phase.recipe
        self._trainer, self._release, self._runtime, self._folder = trainer, release, runtime, folder
        self._first_step, self._last_step = phase.first_step + 1, phase.last_step
        self._health = Health(runtime.health_every_steps, recipe.batch_size_global, processes)
        self._health.prepare(trainer.step + 1)
        trainer.model.health = self._health
        self._probe: KNNProbe | None = None
        if runtime.probe is not None:
            batch_size = 2 * recipe.batch_size_global // processes.count
            self._probe = KNNProbe(runtime.probe, recipe, batch_size, runtime.workers, processes)
        self.peak = peak(processes.device, trainer.recipe.precision, runtime.peak_tflops)
        self.least_step_s = step_flops(recipe) / (self.peak.flops_per_s * processes.count)
        self._drawn: list[tuple[str, Path, int]] = []  # pictures that no record has yet
        self._records: list[Records] = []
        if processes.is_first:
            self._alarms = Alarms(phase.first_step + recipe.optimiser.warmup_steps)
            for row in run_folder.rows(folder / run_folder.METRICS):
                if row["step"] > phase.first_step:
                    self._alarms.judge(row)
            self._records = _records(runtime, folder, trainer.step)

    def look(self, batch: Batch) -> dict[str, Tensor]:
        """After an update: what the health panel and the probe find, where they are due; and pictures.

        Args:
            batch: of the update, anywhere.

        Returns:
            Scalars on the device, to be read with the others.
        """
        step = self._trainer.step
        found = self._health.panel(step)
        self._health.prepare(step + 1)
        if self._probe is not None and (step % self._probe.every_steps == 0 or step == self._last_step):
            found["probe_knn_top1"] = self._probe.top1(self._trainer.model)
        every = self._runtime.pictures_every_steps
        if every and (step % every == 0 or step in (self._first_step, self._last_step)):
            self._draw(batch, step)
        return found

    def read(self, rows: Sequence[dict[str, Any]]) -> list[str]:
        """Show rows that were written to the records, and judge them; returns what there is to say of them."""
        events = []
        for row in rows:
            events += self._alarms.judge(row)
            for record in self._records:
                record.row(row)
                for name, path, step in self._drawn:
                    if step == row["step"]:
                        record.picture(name, path, step)
        self._drawn.clear()
        for record in self._records:
            record.flush()
        if events:
            with (self._folder / run_folder.ALARMS).open("a") as file:
                file.write("".join(json.dumps(event._asdict()) + "\n" for event in events))
                file.flush()
                os.fsync(file.fileno())
        return [event.words() for event in events]

    def close(self) -> None:
        """Close the records."""
        for record in self._records:
            record.close()

    def _draw(self, batch: Batch, step: int) -> None:
        """Write both pictures; all processes lend their share of the teacher, the first one draws."""
        from training.watch.pictures import crops_picture, patches_picture

        recipe = self._trainer.phase.recipe
        images = []
        count = min(PATCHES_OF, len(self._release))
        for position in (i * len(self._release) // count for i in range(count)):
            try:
                images.append(
                    centre(
                        self._release.read(position), recipe.crops.global_size, recipe.model.in_channels, recipe.pixels
                    )
                )
            except ValueError:
                continue
        shown = {}
        if images:
            pixels = torch.from_numpy(np.stack(images))
            tokens = self._trainer.model.teacher_features(pixels.to(self._trainer.processes.device)).patch_tokens
        if not self._trainer.processes.is_first:
            return
        if images:
            shown["patches"] = patches_picture(pixels.numpy(), tokens.float().cpu().numpy(), step)
        of_batch = [x.cpu().numpy() for x in (batch.global_crops, batch.local_crops, batch.masks)]
        shown["crops"] = crops_picture(of_batch[0], of_batch[1], of_batch[2], step)
        folder = self._folder / run_folder.PICTURES
        folder.mkdir(exist_ok=True)
        for name, png in shown.items():
            path = folder / f"step_{step:08d}_{name}.png"
            write_atomically(path, png)
            self._drawn.append((name, path, step))


def _records(runtime: config.Runtime, folder: Path, step: int) -> list[Records]:
    records: list[Records] = []
    if runtime.tensorboard:
        with suppress(ImportError):  # then metrics.jsonl has to do
            records.append(TensorBoard(folder, step))
    if runtime.wandb is not None:
        records.append(WandB(runtime.wandb, folder))
    return records
