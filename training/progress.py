"""What a run says while it works: a bar on a terminal, plain lines elsewhere, a row a step in ``metrics.jsonl``."""

import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from training.schedules import Now
from training.watch.machine import peak_memory_bytes
from training.watch.watch import Watch

T = TypeVar("T")


class Progress:
    """Collects the scalars of each step on the device and reads them all at once every few steps.

    Args:
        path: ``metrics.jsonl``, appended to; None: another process says it all.
        first: updates done before this process.
        total: updates in all.
        batch_size: images an update.
        every: updates between two reads.
        watch: shown every row that is written, and asked how long a step would take at the devices' peak.
    """

    def __init__(self, path: Path | None, first: int, total: int, batch_size: int, every: int, watch: Watch) -> None:
        self._file = path.open("a") if path else None
        self._total, self._batch_size, self._every, self._step = total, batch_size, every, first
        self._watch = watch
        self._waiting: list[tuple[int, dict[str, Tensor], Now]] = []
        self._since, self._waited_s = time.perf_counter(), 0.0
        self._bar = tqdm(total=total, initial=first, unit="step", disable=not (path and sys.stderr.isatty()))

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches; the time until each is there counts as waiting for data."""
        iterator = iter(batches)
        while True:
            start = time.perf_counter()
            batch = next(iterator, None)
            self._waited_s += time.perf_counter() - start
            if batch is None:
                return
            yield batch

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
        scalars = [value.double() for _, row, _ in self._waiting for value in row.values()]
        values = iter(torch.stack(scalars).tolist())  # the one synchronisation
        elapsed, self._since = time.perf_counter() - self._since, time.perf_counter()
        wait, self._waited_s = self._waited_s / elapsed, 0.0
        images_per_s = len(self._waiting) * self._batch_size / elapsed
        mfu = len(self._waiting) * self._watch.least_step_s / elapsed
        clock: dict[str, Any] = {
            "images_per_s": round(images_per_s, 1),
            "data_wait": round(wait, 4),
            "mfu": round(mfu, 4),
        }
        clock |= {"mfu_of": self._watch.peak.words, "peak_memory_bytes": peak_memory_bytes()}
        rows = []
        for step, row, now in self._waiting:
            record: dict[str, Any] = {"step": step, **{name: next(values) for name in row}, **now._asdict()}
            record = {key: value if math.isfinite(value) else None for key, value in record.items()}  # JSON has no NaN
            rows.append({**record, **clock})
        self._file.write("".join(json.dumps(row) + "\n" for row in rows))
        self._file.flush()
        os.fsync(self._file.fileno())
        step, loss = rows[-1]["step"], rows[-1]["loss"]
        eta_s = round((self._total - step) * elapsed / len(rows))
        words = f"loss {math.nan if loss is None else loss:.3f}  {images_per_s:.0f} images/s"
        words += f"  wait {wait:.0%}  MFU {mfu:.0%}"
        self._bar.set_postfix_str(words)
        self._bar.update(step - self._step)
        self._step = step
        if self._bar.disable:
            print(f"step {step}/{self._total}  {words}  eta {eta_s} s", flush=True)
        for remark in self._watch.read(rows):
            tqdm.write(remark)
        self._waiting.clear()

    def close(self) -> None:
        """Close the file, the bar and what watches."""
        self._watch.close()
        if self._file is not None:
            self._file.close()
        self._bar.close()
