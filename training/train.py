"""The training loop. Everything it does is a function of the recipe, the release and the step."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conf import digest
from training import checkpoint, config, run_folder
from training.data.augment import MEAN, STD
from training.data.loader import Batch, batches
from training.data.release import Release
from training.dinov2 import DINOv2
from training.optim import build_optimiser, clip_gradients, set_schedule, step_where
from training.progress import Progress
from training.schedules import Now, at


class Trainer:
    """The state of a run: model, optimiser, updates done, and what went wrong on the way.

    Args:
        recipe: with its precision decided.
        device: where to compute.
    """

    def __init__(self, recipe: config.Recipe, device: torch.device) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.model = DINOv2(recipe).to(device)
        self.optimiser = build_optimiser(self.model.student, recipe.optimiser)
        self.step = 0
        self.unreadable = torch.zeros((), dtype=torch.int64, device=device)  # images skipped so far
        self.nonfinite = torch.zeros((), dtype=torch.int64, device=device)  # updates skipped so far
        self.nonfinite_in_a_row = torch.zeros((), dtype=torch.int64, device=device)

    def update(self, batch: Batch, now: Now) -> dict[str, Tensor]:
        """One step of the method; returns its scalars, which stay on the device."""
        torch.manual_seed(_step_seed(self.recipe.seed, self.step))  # stochastic depth is a function of the step
        set_schedule(self.optimiser, now)
        losses, centers = self.model.losses(batch, now.teacher_temp)
        losses["loss"].backward()
        norms = clip_gradients(self.model.student, self.recipe.optimiser.clip_norm)
        finite = torch.stack([losses["loss"].detach(), *norms.values()]).isfinite().all()
        step_where(finite, self.optimiser)
        self.model.update_teacher(now.momentum, centers, finite)
        self.step += 1
        self.unreadable += batch.num_unreadable
        self.nonfinite += ~finite
        self.nonfinite_in_a_row = (self.nonfinite_in_a_row + 1) * ~finite
        return {
            **{name: term.detach() for name, term in losses.items()},
            **{f"grad_norm_{name}": norm for name, norm in norms.items()},
            "nonfinite_steps": self.nonfinite.clone(),
            "unreadable_images": self.unreadable.clone(),
        }

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on, besides the recipe and the release."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "unreadable": self.unreadable,
            "nonfinite": self.nonfinite,
            "nonfinite_in_a_row": self.nonfinite_in_a_row,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]
        for name in ("unreadable", "nonfinite", "nonfinite_in_a_row"):
            getattr(self, name).copy_(state[name])


def train(settings: config.TrainConfig) -> Path:
    """Train to the end of the recipe, from the newest checkpoint where there is one.

    Returns:
        The ``model.json`` of the run.

    Raises:
        ValueError: nothing to train on, a folder in use or of another run, or too many non-finite updates in a row.
    """
    runtime, folder = settings.runtime, Path(settings.output)
    device = config.device(runtime)
    recipe = config.resolve(settings.recipe, device)
    release = Release(settings.data.release)
    identity = {
        "recipe_digest": digest(recipe),
        "release": {"fingerprint": release.fingerprint(), "images": len(release), "merkle_root": release.merkle_root()},
    }
    with run_folder.locked(folder):
        if run_folder.claim(folder, {**identity, "recipe": recipe.model_dump(mode="json")}, runtime.if_changed):
            print(f"{folder}: held a run with another recipe or release; it was removed, starting over")
        if run_folder.is_finished(folder):
            print(f"already finished: {recipe.steps} steps in {folder}, nothing to do")
            return folder / run_folder.MODEL
        trainer = Trainer(recipe, device)
        state = checkpoint.load_newest(folder / run_folder.CHECKPOINTS, say=print)
        if state is not None:
            trainer.load_state_dict(state)
        run_folder.truncate_metrics(folder, trainer.step)
        print(
            f"training {recipe.model.arch} on {len(release)} images for {recipe.steps} steps from step {trainer.step}, "
            f"on {device.type} in {recipe.precision}"
        )
        loop(trainer, release, runtime, folder)
        description = {
            **identity,
            "architecture": recipe.model.model_dump(mode="json"),
            "input": {"size": recipe.crops.global_size, "mean": MEAN, "std": STD},
            "precision": recipe.precision,
            "steps": trainer.step,
        }
        run_folder.export(folder, trainer.model.student, trainer.model.teacher, description)
        return folder / run_folder.MODEL


def loop(trainer: Trainer, release: Release, runtime: config.Runtime, folder: Path) -> None:
    """Updates to the end of the recipe, with metrics and checkpoints on the way.

    Raises:
        ValueError: ``runtime.max_nonfinite_steps`` updates in a row had a NaN or an infinity.
    """
    recipe, device = trainer.recipe, trainer.nonfinite.device
    progress = Progress(
        folder / run_folder.METRICS, trainer.step, recipe.steps, recipe.batch_size_global, runtime.log_every_steps
    )
    try:
        for batch in batches(release, recipe, trainer.step, runtime.workers, device):
            now = at(recipe, trainer.step)
            scalars = trainer.update(batch.to(device), now)
            was_read = progress.add(trainer.step, scalars, now)
            if was_read and int(trainer.nonfinite_in_a_row) >= runtime.max_nonfinite_steps:
                raise ValueError(
                    f"step {trainer.step}: {int(trainer.nonfinite_in_a_row)} updates in a row were not finite and were "
                    "skipped; lower recipe.optimiser.base_lr or use recipe.precision=fp32, with another output"
                )
            if trainer.step % runtime.checkpoint_every_steps == 0 or trainer.step == recipe.steps:
                progress.flush()  # so that the metrics reach as far as the checkpoint
                checkpoint.save(
                    folder / run_folder.CHECKPOINTS, trainer.step, trainer.state_dict(), runtime.keep_checkpoints
                )
    finally:
        progress.close()


def _step_seed(seed: int, step: int) -> int:
    return (seed * 1_000_003 + step + 1) % 2**63
