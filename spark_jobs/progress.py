"""A progress bar over Spark's tasks on a terminal; silent elsewhere, where the stage's line says it all."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pyspark import SparkContext
from tqdm import tqdm


@contextmanager
def task_progress(context: SparkContext, label: str, interval_s: float = 0.2) -> Iterator[None]:
    """Show finished tasks of all Spark stages seen while the block runs."""
    if not sys.stderr.isatty():
        yield
        return
    stop = threading.Event()
    seen: dict[int, tuple[int, int]] = {}
    bar = tqdm(desc=label, unit=" tasks", leave=False, dynamic_ncols=True)

    def poll() -> None:
        tracker = context.statusTracker()
        while not stop.wait(interval_s):
            for stage_id in tracker.getActiveStageIds():
                info = tracker.getStageInfo(stage_id)
                if info is not None:
                    seen[stage_id] = (info.numCompletedTasks, info.numTasks)
            # a stage that is no longer active has finished all its tasks
            active = set(tracker.getActiveStageIds())
            done = sum(tasks if stage_id not in active else finished for stage_id, (finished, tasks) in seen.items())
            bar.total, bar.n = sum(tasks for _, tasks in seen.values()) or None, done
            bar.refresh()

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        bar.close()
