"""Where rows and pictures of a run go besides its folder's own files: TensorBoard, Weights & Biases."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from training.run_folder import EVENTS, IDENTITY

_GROUPS = {"loss": "loss", "grad_norm": "gradients", "health": "health", "probe": "probe"}
# What a row says of the clock and the machine; all else in it is a function of the recipe, the release and the step.
CLOCK = ("images_per_s", "data_wait", "mfu", "mfu_of", "peak_memory_bytes")


class Records(Protocol):
    """A place that keeps rows and pictures."""

    def row(self, row: Mapping[str, Any]) -> None:
        """Keep the numbers of a step."""

    def picture(self, name: str, path: Path, step: int) -> None:
        """Keep a PNG."""

    def flush(self) -> None:
        """Bring what was kept to the disk."""

    def close(self) -> None:
        """No more will come."""


def tag(key: str) -> str:
    """A row's key with the group it is shown in, such as ``health/effective_rank``."""
    if key in CLOCK:
        return f"speed/{key}"
    for prefix, group in _GROUPS.items():
        if key.startswith(prefix):
            return f"{group}/{key.removeprefix(prefix).strip('_') or 'total'}"
    return f"schedule/{key}"


class TensorBoard:
    """Event files in the run folder; readers drop what earlier files say of steps after ``step``.

    Raises:
        ImportError: the ``tensorboard`` package is not installed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / EVENTS), purge_step=step + 1)

    def row(self, row: Mapping[str, Any]) -> None:
        """Keep the numbers of a step."""
        for key, value in row.items():
            if key != "step" and isinstance(value, int | float):
                self._writer.add_scalar(tag(key), value, row["step"])

    def picture(self, name: str, path: Path, step: int) -> None:
        """Keep a PNG."""
        self._writer.add_image(name, np.array(Image.open(path).convert("RGB")), step, dataformats="HWC")

    def flush(self) -> None:
        """Bring what was kept to the disk."""
        self._writer.flush()

    def close(self) -> None:
        """No more will come."""
        self._writer.close()


class WandB:
    """A run of Weights & Biases that goes on where the folder's run goes on.

    Offline unless ``WANDB_API_KEY`` or ``WANDB_MODE`` is set; ``wandb sync`` sends what was kept.

    Raises:
        ValueError: the ``wandb`` package is not installed.
    """

    def __init__(self, project: str, folder: Path) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ValueError(
                f"runtime.wandb = {project!r}: wandb is not installed; pip install wandb, or leave runtime.wandb out"
            ) from error
        identity = hashlib.sha256((folder / IDENTITY).read_bytes() + str(folder.resolve()).encode()).hexdigest()
        online = "WANDB_MODE" in os.environ or "WANDB_API_KEY" in os.environ
        self._run = wandb.init(
            project=project,
            dir=folder,
            id=identity[:16],
            resume="allow",
            name=folder.name,
            mode=None if online else "offline",
            settings=wandb.Settings(console="off"),
        )
        self._image = wandb.Image

    def row(self, row: Mapping[str, Any]) -> None:
        """Keep the numbers of a step."""
        numbers = {tag(key): value for key, value in row.items() if isinstance(value, int | float) and key != "step"}
        self._run.log(numbers, step=row["step"])

    def picture(self, name: str, path: Path, step: int) -> None:
        """Keep a PNG."""
        self._run.log({name: self._image(str(path))}, step=step)

    def flush(self) -> None:
        """Its own thread does."""

    def close(self) -> None:
        """No more will come."""
        self._run.finish()
