"""What a run says while it works: a bar on a terminal, plain lines elsewhere, a row a step in ``metrics.jsonl``."""

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from training.schedules import Now


class Progress:
    """Collects the scalars of each step on the device and reads them all at once every few steps.

    Args:
        path: ``metrics.jsonl``, appended to; None: another process says it all.
        first: updates done before this process.
        total: updates in all.
        batch_size: images an update.
        every: updates between two reads.
    """

    def __init__(self, path: Path | None, first: int, total: int, batch_size: int, every: int) -> None:
        self._file = path.open("a") if path else None
        self._total, self._batch_size, self._every, self._step = total, batch_size, every, first
        self._waiting: list[tuple[int, dict[str, Tensor], Now]] = []
        self._since = time.perf_counter()
        self._bar = tqdm(total=total, initial=first, unit="step", disable=not (path and sys.stderr.isatty()))

    def add(self, step: int, scalars: dict[str, Tensor], now: Now) -> bool:
        """Take the scalars of one update; True when they have just been read."""
        self._waiting.append((step, scalars, now))
        if len(self._waiting) < self._every and step < self._total:
            return False
        self.flush()
        return True

    def flush(self) -> None:
        """Read what waits on the device, write it to the disk and say it."""
        if not self._waiting:
            return
        if self._file is None:
            self._waiting.clear()
            return
        names = list(self._waiting[0][1])
        stacked = torch.stack([torch.stack([row[name].double() for name in names]) for _, row, _ in self._waiting])
        values = stacked.tolist()  # the one synchronisation
        elapsed, self._since = time.perf_counter() - self._since, time.perf_counter()
        images_per_s = len(values) * self._batch_size / elapsed
        for (step, _, now), row in zip(self._waiting, values, strict=True):
            record: dict[str, Any] = {"step": step, **dict(zip(names, row, strict=True)), **now._asdict()}
            record = {key: value if math.isfinite(value) else None for key, value in record.items()}  # JSON has no NaN
            self._file.write(json.dumps({**record, "images_per_s": round(images_per_s, 1)}) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        step, loss = self._waiting[-1][0], values[-1][names.index("loss")]
        eta_s = round((self._total - step) * elapsed / len(values))
        self._bar.set_postfix_str(f"loss {loss:.3f}, {images_per_s:.0f} images/s")
        self._bar.update(step - self._step)
        self._step = step
        if self._bar.disable:
            print(f"step {step}/{self._total}  loss {loss:.3f}  {images_per_s:.0f} images/s  eta {eta_s} s", flush=True)
        self._waiting.clear()

    def close(self) -> None:
        """Close the file and the bar."""
        if self._file is not None:
            self._file.close()
        self._bar.close()
