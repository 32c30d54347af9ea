"""Checkpoints that are whole or absent: written aside, synced, renamed; named by step and hash."""

import hashlib
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_NAME = re.compile(r"step_(\d{8})_([0-9a-f]{16})\.pt")


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees all of it or nothing, whenever the process or the machine stops."""
    aside = path.with_name(f".{path.name}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def save(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write the state after ``step`` updates, then remove all but the newest ``keep`` checkpoints.

    Args:
        folder: made if absent.
        step: updates done.
        state: tensors and plain values only.
        keep: checkpoints to keep, this one included.
    """
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()  # torch.save on a path hides a full disk behind a RuntimeError
    torch.save(state, buffer)
    data = buffer.getvalue()
    path = folder / f"step_{step:08d}_{hashlib.sha256(data).hexdigest()[:16]}.pt"
    write_atomically(path, data)
    for old in [other for other in newest_first(folder) if other != path][keep - 1 :]:
        old.unlink()
    return path


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints of a folder."""
    found = [path for path in folder.glob("step_*.pt") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: path.name, reverse=True)


def load_newest(folder: Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest state whose bytes match the hash in its name; None where there is none.

    Args:
        folder: may be absent.
        say: told of every damaged checkpoint that is passed over.
    """
    for path in newest_first(folder):
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest().startswith(path.stem.rpartition("_")[2]):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        say(f"{path} is damaged (its bytes do not match the hash in its name); going back to the one before")
    return None
