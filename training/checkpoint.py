"""Checkpoints that are whole or absent: tensors only, written beside the work, for any number of processes to read.

A checkpoint is a folder ``step_<updates>`` of safetensors files, one a process, and ``whole.json`` with their hashes.
It is written under another name and renamed when all is on the disk. No file of it can hold code.
"""

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException

from training.atomic import sync_folder, write_atomically
from training.processes import Processes

WHOLE = "whole.json"
_NAME = re.compile(r"step_(\d{8,})")


class Checkpoints:
    """The checkpoints of one run, which one set of processes at a time may write.

    Args:
        folder: made by the first save.
        keep: how many to keep, at least 1.
        processes: all of them make every call, in the same order, except where it says otherwise.
    """

    def __init__(self, folder: Path, keep: int, processes: Processes) -> None:
        self.folder, self._keep, self._processes = folder, keep, processes
        self._saving: Future[Any] | None = None
        self._saved: int | None = None
        # a save speaks from a thread of its own, so on a group of its own
        self._group: Any = None if processes.mesh is None else dist.new_group(backend="gloo")
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        if processes.is_first:
            for rest in folder.glob(".*step_*"):  # of a run that was killed
                shutil.rmtree(rest)
        processes.wait()

    def save(self, step: int, state: dict[str, Tensor]) -> None:
        """Copy the state after ``step`` updates and write the copy while the work goes on.

        Waits for the save before. What this one meets is raised by :meth:`check`, :meth:`wait` or the next save.

        Args:
            step: updates done.
            state: tensors with at least one dimension; a ``DTensor`` is written in shares.

        Raises:
            OSError: the save before failed, such as by a full disk.
        """
        self.wait()
        if step == self._saved:
            return
        saving = dcp.async_save(
            state,
            storage_writer=_Writer(self.folder, step, self._keep),
            process_group=self._group,
            no_dist=self._group is None,
        )
        assert isinstance(saving, Future)
        self._saving = saving
        self._saved = step

    def check(self) -> None:
        """Raise what the save under way has met so far; does not wait for it."""
        if self._saving is not None and self._saving.done():
            self.wait()

    def wait(self) -> None:
        """Return when the save under way, if any, is on the disk."""
        if self._saving is None:
            return
        saving, self._saving = self._saving, None
        try:
            saving.result()
        except CheckpointException as error:
            if self._processes.is_first:  # room for what comes next
                shutil.rmtree(_aside(self.folder, self._saved), ignore_errors=True)
            raise next(iter(error.failures.values()))[0] from error

    def close(self) -> None:
        """Let the save under way end, whatever becomes of it."""
        if self._saving is not None:
            self._saving.exception()

    def newest(self, say: Callable[[str], None]) -> int | None:
        """The step of the newest checkpoint whose files match their hashes; None where there is none.

        Args:
            say: told, in the first process, of every damaged one that is passed over.
        """
        return self._processes.told(self._newest(say) if self._processes.is_first else None)

    def _newest(self, say: Callable[[str], None]) -> int | None:
        for path in newest_first(self.folder):
            if (damage := _damage(path)) is None:
                return step_of(path)
            say(f"{path} is damaged ({damage}); going back to the one before")
        return None

    def load(self, step: int, state: dict[str, Tensor]) -> None:
        """Read one checkpoint into the tensors of ``state``, however many processes wrote it."""
        reader = HuggingFaceStorageReader(str(_place(self.folder, step)))
        try:
            dcp.load(state, storage_reader=reader, process_group=self._group, no_dist=self._group is None)
        except CheckpointException as error:
            raise next(iter(error.failures.values()))[0] from error
        self._saved = step


def _place(folder: Path, step: int) -> Path:
    return folder / f"step_{step:08d}"


def _aside(folder: Path, step: int | None) -> Path:
    return folder / f".step_{step:08d}"


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints of a folder, damaged ones among them."""
    found = [path for path in folder.glob("step_*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """The updates done at a checkpoint."""
    return int(path.name.removeprefix("step_"))


def _damage(path: Path) -> str | None:
    """What is wrong with a checkpoint; None where nothing is."""
    try:
        hashes = json.loads((path / WHOLE).read_bytes())["sha256"]
        found = {file.name for file in path.iterdir()} - {WHOLE}
        if found != set(hashes):
            return f"{WHOLE} names {len(hashes)} files, {len(found)} are there"
        wrong = [name for name, expected in hashes.items() if _sha256(path / name) != expected]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{WHOLE}: {error}"
    return f"{wrong[0]} does not match its hash" if wrong else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Writer(HuggingFaceStorageWriter):
    """Writes aside; the first process, when all have written, gives the whole its name and removes what is old."""

    def __init__(self, folder: Path, step: int, keep: int) -> None:
        super().__init__(str(_aside(folder, step)), save_distributed=True)
        self._folder, self._step, self._keep = folder, step, keep

    def finish(self, metadata: Any, results: Any) -> None:  # noqa: ARG002
        """Called in the first process when every process's files are on the disk."""
        aside, place = _aside(self._folder, self._step), _place(self._folder, self._step)
        hashes = {file.name: _sha256(file) for file in sorted(aside.iterdir())}
        write_atomically(aside / WHOLE, json.dumps({"sha256": hashes}, indent=1).encode())
        older = []
        for path in newest_first(self._folder):
            if step_of(path) < self._step:
                older.append(path)
            else:
                _remove(path)  # damaged: the run went back behind it
        aside.rename(place)
        sync_folder(self._folder)
        for path in older[self._keep - 1 :]:
            _remove(path)


def _remove(path: Path) -> None:
    """Remove a checkpoint so that nobody who is killed meanwhile leaves part of it under its name."""
    aside = path.with_name(f".old_{path.name}")
    path.rename(aside)
    shutil.rmtree(aside)
