"""The folder of one run: one writer at a time, metrics without gaps or repeats, exports, and when it is finished."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import save
from torch import Tensor

from training.atomic import write_atomically

MODEL, METRICS, CHECKPOINTS, IDENTITY = "model.json", "metrics.jsonl", "checkpoints", "run.json"
NONFINITE = "nonfinite"
ALARMS, PICTURES, EVENTS, WANDB, PAGE = "alarms.jsonl", "pictures", "tensorboard", "wandb", "watch.html"
# All that a run leaves besides its identity, in the order of removal: never called finished while it goes, and no
# checkpoint outlives the metrics that lead to it.
_CONTENTS = (
    MODEL, CHECKPOINTS, NONFINITE, ALARMS, PICTURES, EVENTS, WANDB, PAGE, METRICS,
    "teacher_backbone.safetensors", "student_backbone.safetensors",
)  # fmt: skip


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder for this process; the kernel lets go when the process ends, however it ends.

    A record lock rather than ``flock``: the loader's workers do not inherit it, so they cannot outlive the run with it.

    Raises:
        ValueError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise ValueError(
                f"{folder}: process {file.read().strip()} is training here; wait for it, or pass output=OTHER"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def claim(folder: Path, identity: dict[str, Any], if_changed: str) -> bool:
    """Make the folder this run's own; True where another run's contents were removed for that.

    Args:
        folder: the run folder, locked.
        identity: what the result depends on: digests and, for a reader, the recipe itself.
        if_changed: ``refuse`` or ``restart`` where the folder holds a run with another identity.

    Raises:
        ValueError: another identity or none that can be read, and ``refuse``.
    """
    path = folder / IDENTITY
    held = _whose(path)
    changed = held != identity if held is not None else any((folder / name).exists() for name in _CONTENTS)
    if changed:
        if if_changed == "refuse":
            different = ", ".join(sorted(key for key in identity if held is None or held.get(key) != identity[key]))
            what = f"a run with another {different}" if held is not None else f"a run, but no {IDENTITY} says of what"
            raise ValueError(
                f"{folder}: holds {what}; pass output=OTHER, or runtime.if_changed=restart to remove it and start over"
            )
        # the identity stays to the last, so that whoever is killed on the way never leaves a part to be adopted
        for name in _CONTENTS:
            if (folder / name).is_dir():
                shutil.rmtree(folder / name)
            (folder / name).unlink(missing_ok=True)
    write_atomically(path, (json.dumps(identity, indent=1, sort_keys=True) + "\n").encode())
    return changed


def _whose(path: Path) -> dict[str, Any] | None:
    """The identity in a file; None where it is absent or damaged."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def truncate_metrics(folder: Path, step: int) -> None:
    """Drop the rows and alarms after ``step``, and a torn last line: they will be written again."""
    for path in (folder / METRICS, folder / ALARMS):
        if path.is_file():
            kept = [json.dumps(row) + "\n" for row in rows(path) if row["step"] <= step]
            write_atomically(path, "".join(kept).encode())


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON lines of a file, up to a torn one; none where there is no file."""
    if not path.is_file():
        return
    with path.open() as file:
        for line in file:
            try:
                yield json.loads(line)
            except ValueError:
                return


def keep_batch(folder: Path, step: int, rank: int, batch: NamedTuple) -> Path:
    """Write a batch (tensors by name) that a run stopped at, as safetensors, for whoever looks for the reason."""
    path = folder / NONFINITE / f"step_{step:08d}_process_{rank}.safetensors"
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, save({name: value.cpu().contiguous() for name, value in batch._asdict().items()}))
    return path


def export(folder: Path, backbones: dict[str, dict[str, Tensor]], description: dict[str, Any]) -> None:
    """Write both backbones as safetensors and, last of all, ``model.json``, which says that the run is finished.

    Args:
        folder: the run folder.
        backbones: the weights of ``student`` and ``teacher``.
        description: goes into ``model.json`` beside the names and hashes of the weights.
    """
    hashes = {}
    for name, weights in backbones.items():
        data = save({key: value.contiguous() for key, value in weights.items()})
        write_atomically(folder / f"{name}_backbone.safetensors", data)
        hashes[name] = hashlib.sha256(data).hexdigest()
    model = {
        "weights": "teacher_backbone.safetensors",
        "weights_sha256": hashes["teacher"],
        "student_weights": "student_backbone.safetensors",
        "student_weights_sha256": hashes["student"],
        **description,
    }
    write_atomically(folder / MODEL, (json.dumps(model, indent=1, sort_keys=True) + "\n").encode())


def is_finished(folder: Path) -> bool:
    """Whether ``model.json`` is there and the weights it names are whole."""
    if not (folder / MODEL).is_file():
        return False
    model = json.loads((folder / MODEL).read_text())
    return all(
        (folder / model[weights]).is_file()
        and hashlib.sha256((folder / model[weights]).read_bytes()).hexdigest() == model[f"{weights}_sha256"]
        for weights in ("weights", "student_weights")
    )
