"""The training loop. Everything it does is a function of the recipe, the release and the step."""

from collections.abc import Iterable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conf import digest
from training import config, run_folder
from training.checkpoint import Checkpoints
from training.data.loader import Batch, Batches, batches
from training.data.source import Source
from training.data.sources import open_source
from training.dinov2 import DINOv2
from training.initial import start_from
from training.kernels import PLAIN, Kernels, chosen, use
from training.optim import build_optimiser, clip_gradients, set_schedule, step_where
from training.phases import Phase, phase_at, phases, resized_positions
from training.preemption import Request, StoppedError, listening
from training.processes import ALONE, Processes, joined
from training.progress import Progress
from training.schedules import Now, at
from training.sharding import whole
from training.watch.watch import Watch


class Trainer:
    """The state of a run in one of its phases: model, optimiser, updates done, and what went wrong on the way.

    Args:
        recipe: with its precision decided.
        processes: who trains, and where.
        step: updates done. Where it is not 0, :meth:`state` awaits those of a checkpoint.
        accumulate: parts of a batch whose gradients are added up.
        kernels: what the backbones compute with.
    """

    def __init__(
        self,
        recipe: config.Recipe,
        processes: Processes = ALONE,
        step: int = 0,
        accumulate: int = 1,
        *,
        kernels: Kernels = PLAIN,
    ) -> None:
        self.recipe, self.processes, self.step, self.accumulate = recipe, processes, step, accumulate
        self.kernels = kernels
        device = processes.device
        self.unreadable = torch.zeros((), dtype=torch.int64, device=device)  # images skipped so far
        self.nonfinite = torch.zeros((), dtype=torch.int64, device=device)  # updates skipped so far
        self.nonfinite_in_a_row = torch.zeros((), dtype=torch.int64, device=device)
        self._enter(phase_at(recipe, step))

    def update(self, batch: Batch, now: Now) -> dict[str, Tensor]:
        """One step of the method; returns its scalars over all processes, which stay on the device."""
        torch.manual_seed(_step_seed(self.recipe.seed, self.step, self.processes.rank))  # stochastic depth
        set_schedule(self.optimiser, now)
        parts = [part.to(self.processes.device) for part in batch.parts(self.accumulate)]
        shares, memory = self.model.losses(parts, now.teacher_temp)
        losses = _backward(shares)
        norms = clip_gradients(self.model.student, self.phase.recipe.optimiser.clip_norm)
        means, num_unreadable = self._over_processes(losses, parts[0].num_unreadable)
        finite = torch.stack([*means.values(), *norms.values()]).isfinite().all()
        step_where(finite, self.optimiser)
        self.model.update_teacher(now.momentum, memory, finite)
        self.step += 1
        self.unreadable += num_unreadable
        self.nonfinite += ~finite
        self.nonfinite_in_a_row.copy_((self.nonfinite_in_a_row + 1) * ~finite)
        return {
            **means,
            **{f"grad_norm_{name}": norm for name, norm in norms.items()},
            "nonfinite_steps": self.nonfinite.clone(),
            "unreadable_images": self.unreadable.clone(),
        }

    def state(self) -> dict[str, Tensor]:
        """All that the rest of the run depends on, besides the recipe, the release and the step: in place, by name."""
        names: dict[Tensor, str] = {value: name for name, value in self.model.student.named_parameters()}
        found = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for parameter, moments in self.optimiser.state.items():
            found |= {f"optimiser.{names[parameter]}.{key}": value for key, value in moments.items()}
        found |= {name: getattr(self, name) for name in ("unreadable", "nonfinite", "nonfinite_in_a_row")}
        return {name: value if value.ndim else value.view(1) for name, value in found.items()}

    def enter_next_phase(self) -> bool:
        """Go on to the phase after this one, with its own optimiser; False where there is none."""
        if self.step == phases(self.recipe)[-1].last_step:
            return False
        self._enter(phase_at(self.recipe, self.step + 1), {n: whole(v) for n, v in self.model.state_dict().items()})
        return True

    def _enter(self, phase: Phase, weights: dict[str, Tensor] | None = None) -> None:
        self.phase = phase
        torch.manual_seed(self.recipe.seed)
        self.model = DINOv2(phase.recipe, self.processes)
        if weights is not None:
            for name, value in self.model.state_dict().items():
                if name.endswith("pos_embed"):
                    weights[name] = resized_positions(weights[name], value.shape[1])
            self.model.load_state_dict(weights)
        elif self.recipe.initial is not None and self.step == 0:  # later, a checkpoint follows
            start_from(self.recipe.initial, (self.model.student, self.model.teacher))
        self.model.to(self.processes.device)
        for network in (self.model.student, self.model.teacher):
            use(self.kernels, network["backbone"])
        self.model.share_out(accumulates=self.accumulate > 1)
        self.optimiser = build_optimiser(self.model.student, phase.recipe.optimiser)

    def _over_processes(self, losses: dict[str, Tensor], count: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The means of the losses and the sum of a count, in one exchange."""
        shares = [value.float() / self.processes.count for value in losses.values()]
        *means, total = self.processes.total(torch.stack([*shares, count.float()])).unbind()
        return dict(zip(losses, means, strict=True)), total.long()


def _backward(shares: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Add up the gradients of the losses of a batch's parts, and the losses."""
    sums: dict[str, Tensor] = {}
    for share in shares:
        share["loss"].backward()
        sums = {name: value.detach() + sums.get(name, 0) for name, value in share.items()}
    return sums


def train(settings: config.TrainConfig) -> Path:
    """Train to the end of the recipe, from the newest checkpoint where there is one.

    Returns:
        The ``model.json`` of the run.

    Raises:
        ValueError: nothing to train on, a folder in use or of another run, a batch that cannot be shared out, or too
            many non-finite updates in a row.
        StoppedError: a signal asked for it; all is saved.
    """
    with listening(workers=settings.runtime.workers > 0) as request:
        device = config.device(settings.runtime)
        recipe = config.resolve(settings.recipe, device)
        release = open_source(settings.data)
        with joined(device) as processes:
            return _train(settings, recipe, release, processes, request)


def _train(
    settings: config.TrainConfig, recipe: config.Recipe, release: Source, processes: Processes, request: Request
) -> Path:
    runtime, folder = settings.runtime, Path(settings.output)
    _check_shares(recipe, processes.count, runtime.accumulate)
    identity = {
        "recipe_digest": digest(recipe),
        "release": {"fingerprint": release.fingerprint(), "images": len(release), "merkle_root": release.merkle_root()},
    }
    with run_folder.locked(folder) if processes.is_first else nullcontext():
        if processes.told(processes.is_first and _is_done(folder, identity, recipe, runtime.if_changed)):
            return folder / run_folder.MODEL
        checkpoints = Checkpoints(folder / run_folder.CHECKPOINTS, runtime.keep_checkpoints, processes)
        step = checkpoints.newest(say=print)
        kernels = chosen(runtime, processes.device, recipe.precision)
        trainer = Trainer(recipe, processes, step or 0, runtime.accumulate, kernels=kernels)
        if step is not None:
            checkpoints.load(step, trainer.state())
        if processes.is_first:
            run_folder.truncate_metrics(folder, trainer.step)
            print(
                f"training {recipe.model.arch} on {len(release)} images for {phases(recipe)[-1].last_step} steps from "
                f"step {trainer.step}, on {device_words(processes)} in {recipe.precision}",
                flush=True,
            )
        with closing(checkpoints):
            loop(trainer, release, runtime, folder, checkpoints, request)
            while trainer.enter_next_phase():
                loop(trainer, release, runtime, folder, checkpoints, request)
        last = trainer.phase.recipe
        description = {
            **identity,
            "architecture": last.model.model_dump(mode="json"),
            "input": {"size": last.crops.global_size, "mean": last.pixels.mean, "std": last.pixels.std},
            "precision": recipe.precision,
            "steps": trainer.step,
        }
        backbones = {
            name: {key: whole(value).cpu() for key, value in network["backbone"].state_dict().items()}
            for name, network in (("student", trainer.model.student), ("teacher", trainer.model.teacher))
        }
        if processes.is_first:
            run_folder.export(folder, backbones, description)
        processes.wait()
        return folder / run_folder.MODEL


def loop(
    trainer: Trainer,
    release: Source,
    runtime: config.Runtime,
    folder: Path,
    checkpoints: Checkpoints,
    request: Request,
) -> None:
    """Updates to the end of the phase, with metrics and checkpoints on the way.

    Raises:
        ValueError: ``runtime.max_nonfinite_steps`` updates in a row had a NaN or an infinity.
        StoppedError: ``request`` came; all is saved.
    """
    phase, processes = trainer.phase, trainer.processes
    recipe = phase.recipe
    metrics = folder / run_folder.METRICS if processes.is_first else None
    watch = Watch(trainer, release, runtime, folder)
    progress = Progress(
        metrics, trainer.step, phase.last_step, recipe.batch_size_global, runtime.log_every_steps, watch
    )
    data = Batches(release, recipe, processes, phase.first_step, phase.first_sample)
    try:
        for batch in progress.waiting(batches(data, trainer.step, runtime.workers, processes.device)):
            now = at(recipe, trainer.step - phase.first_step)
            scalars = trainer.update(batch, now) | watch.look(batch)
            was_read = progress.add(trainer.step, scalars, now)
            if was_read and int(trainer.nonfinite_in_a_row) >= runtime.max_nonfinite_steps:
                kept = run_folder.keep_batch(folder, trainer.step, processes.rank, batch)
                raise ValueError(
                    f"step {trainer.step}: {int(trainer.nonfinite_in_a_row)} updates in a row were not finite and were "
                    f"skipped, the last batch is in {kept}; lower recipe.optimiser.base_lr or use "
                    "recipe.precision=fp32, with another output"
                )
            stop = processes.highest(request.signal_number)
            checkpoints.check()
            if stop or trainer.step % runtime.checkpoint_every_steps == 0 or trainer.step == phase.last_step:
                progress.flush()  # so that the metrics reach as far as the checkpoint
                checkpoints.save(trainer.step, trainer.state())
            if stop:
                checkpoints.wait()
                raise StoppedError(trainer.step, stop)
        checkpoints.wait()
    finally:
        progress.close()


def device_words(processes: Processes) -> str:
    """Where a run computes, for a message."""
    where = processes.device.type
    return where if processes.count == 1 else f"{processes.count} processes with {where}"


def _is_done(folder: Path, identity: dict[str, Any], recipe: config.Recipe, if_changed: str) -> bool:
    """Whether there is nothing left to do in a folder, which becomes this run's."""
    if run_folder.claim(folder, {**identity, "recipe": recipe.model_dump(mode="json")}, if_changed):
        print(f"{folder}: held a run with another recipe or release; it was removed, starting over")
    if run_folder.is_finished(folder):
        print(f"already finished: {phases(recipe)[-1].last_step} steps in {folder}, nothing to do")
        return True
    return False


def _check_shares(recipe: config.Recipe, count: int, accumulate: int) -> None:
    for phase in phases(recipe):
        size = phase.recipe.batch_size_global
        if size % count:
            raise ValueError(
                f"recipe.batch_size_global = {size} cannot be shared out equally among {count} processes; choose a "
                f"multiple of {count}, or another runtime.processes"
            )
        if size // count % accumulate:
            raise ValueError(
                f"runtime.accumulate = {accumulate}: the {size // count} samples that a process has of "
                f"recipe.batch_size_global = {size} are no multiple of it; choose a divisor of {size // count}"
            )


def _step_seed(seed: int, step: int, rank: int) -> int:
    return (seed * 1_000_003 + step + 1 + (rank << 40)) % 2**63
