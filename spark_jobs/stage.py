"""The frame every stage runs in: parse, configure, skip what is done, run, hold the laws, report.

A stage script declares a :class:`Stage` whose ``run`` reads tables, calls ``curation`` and writes tables. The frame
gives it a run id that is a hash of the stage, its recipe section, and the runs and sources it reads. A second call
with the same id does nothing; a killed one starts again and ends in the same tables.
"""

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from deltalake.exceptions import DeltaError
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from conf import Section, entry_point, load
from curation import schema
from curation.schema import Table
from curation.store import Run
from curation.takedown.receipt import refuse_unfinished
from spark_jobs.config import CurationConfig
from spark_jobs.events import EventLog
from spark_jobs.progress import task_progress
from spark_jobs.session import session
from spark_jobs.sources import base_folder, fingerprint
from spark_jobs.tables import Outcome, RunKey, Tables, canonical

_FULL_BYTES = 1 << 16  # a disk with less room than this counts as full


@dataclass(frozen=True)
class Context:
    """What a stage's ``run`` is given."""

    spark: SparkSession
    store: Tables
    config: CurationConfig
    run: RunKey


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline.

    Attributes:
        name: also the name of its script, and of its recipe section.
        version: raised when the code changes what the stage writes, so that old runs do not count as done.
        after: the stage whose run it reads.
        sources: keys of the ``sources`` section that it reads.
        writes: every table it replaces.
        run: does the work.
        is_whole: whether what lies outside the tables (a release) is still there.
        notes: what of a finished run's metrics a user should read at once.
    """

    name: str
    version: int
    after: str | None
    writes: Callable[[CurationConfig], tuple[Table, ...]]
    run: Callable[[Context], Outcome]
    sources: tuple[str, ...] = ()
    is_whole: Callable[[CurationConfig, str], bool] | None = None
    notes: Callable[[dict[str, Any]], list[str]] = lambda _: []

    def section(self, config: CurationConfig) -> Section:
        """The stage's own part of the recipe."""
        section: Section = getattr(config.recipe, self.name)
        return section

    def key(self, store: Tables, config: CurationConfig, upstream: str | None) -> tuple[RunKey, str | None]:
        """The run that this configuration asks for after the run ``upstream``, and why it would run (None: it is done).

        A run whose tables were replaced since is made again under a new id, so that the ledger never tells of one
        attempt while the tables hold another.
        """
        sources = config.sources
        inputs = {f"sources.{n}": fingerprint(n, getattr(sources, n), sources.paths_root) for n in self.sources}
        if self.after is not None:
            inputs[self.after] = str(upstream)
        recipe = self.section(config).model_dump(mode="json")
        identity = canonical({"stage": self.name, "version": self.version, "recipe": recipe, "inputs": inputs})
        base = hashlib.sha256(identity.encode()).hexdigest()[:16]
        last = store.last_runs().get(self.name)
        reason = self._why(store, config, last, base, recipe, inputs)
        if last is not None and reason is None:
            return RunKey(self.name, last.run_id, recipe, inputs), None
        attempts = store.attempts(base)
        return RunKey(self.name, f"{base}-{attempts}" if attempts else base, recipe, inputs), reason

    def _why(
        self,
        store: Tables,
        config: CurationConfig,
        last: Run | None,
        base: str,
        recipe: dict[str, Any],
        inputs: dict[str, str],
    ) -> str | None:
        if last is None:
            return "it has not run"
        if last.run_id.partition("-")[0] != base:
            if last.recipe != recipe:
                return "its recipe changed: " + ", ".join(_changes(last.recipe, recipe))
            moved = [name for name in inputs if last.inputs.get(name) != inputs[name]]
            return f"its input changed: {', '.join(moved)}" if moved else "its code changed"
        if not store.is_intact(last):
            return "another run has replaced its tables"
        if self.is_whole is not None and not self.is_whole(config, last.run_id):
            return "what it wrote is gone"
        return None


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], section: str = "") -> Iterator[str]:
    """The values that differ by their dotted keys; of a section that came or went its name alone."""
    for name in dict.fromkeys([*new, *old]):
        key, before, after = f"{section}{name}", old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _changes(before, after, f"{key}.")
        elif isinstance(before or after, dict) and (before is None or after is None):
            yield f"{key} {'came' if before is None else 'went'}"
        elif before != after or (name in old) != (name in new):  # no value and none yet are two recipes
            yield f"{key} {json.dumps(before) if name in old else 'absent'} -> {json.dumps(after)}"


@dataclass(frozen=True)
class Report:
    """A line for the terminal: what a finished stage counted."""

    stage: str
    rows_in: int
    kept: int
    dropped: dict[str, int]
    seconds: float | None  # None: the stage had run before
    notes: tuple[str, ...] = ()

    HEADER = f"{'stage':<14}{'rows in':>10}{'kept':>10}{'dropped':>10}{'seconds':>9}  why dropped"

    def __str__(self) -> str:
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in sorted(self.dropped.items(), key=lambda i: -i[1]))
        took = "done" if self.seconds is None else f"{self.seconds:.1f}"
        total = sum(self.dropped.values())
        line = f"{self.stage:<14}{self.rows_in:>10,}{self.kept:>10,}{total:>10,}{took:>9}  {reasons}".rstrip()
        return "\n".join((line, *(f"  {note}" for note in self.notes)))


def execute(stage: Stage, store: Tables, config: CurationConfig, spark: Callable[[], SparkSession]) -> Report:
    """Run a stage unless it is done. ``spark`` is called only if there is work.

    Raises:
        ValueError: the stage before has not run, or an input cannot be used.
        OSError: the disk is full or a file cannot be read or written.
    """
    runs = store.runs()
    if stage.after is not None:
        _require(store, stage)
    key, reason = stage.key(store, config, runs[stage.after].run_id if stage.after else None)
    log = EventLog(store.path("logs", "run.jsonl"))
    if reason is None:
        done = runs[stage.name]
        log.write("stage_skipped", stage=stage.name, run_id=key.run_id)
        return Report(stage.name, done.rows_in, done.kept, done.dropped, None)
    started = time.monotonic()
    session = spark()
    log.write("stage_started", stage=stage.name, run_id=key.run_id, why=reason)
    folders = [getattr(config.sources, name) for name in ("images", "collections") if name in stage.sources]
    store.write_sources({name: base_folder(root) for named in folders for name, root in named.items()})
    try:
        with task_progress(session.sparkContext, stage.name):
            outcome = stage.run(Context(session, store, config, key))
            store.append_decisions(outcome.decisions, key)
        store.finish(key, outcome.rows_in, outcome.metrics, stage.writes(config))
    except (PySparkException, Py4JError, DeltaError, OSError) as error:
        cause = _root_cause(stage.name, store, error)
        if not isinstance(cause, OSError):  # on a full disk there is no room for a line either
            log.write("stage_failed", stage=stage.name, run_id=key.run_id, error=str(cause))
        raise cause from error
    finished = store.runs()[stage.name]
    seconds = time.monotonic() - started
    log.write(
        "stage_finished",
        stage=stage.name,
        run_id=key.run_id,
        rows_in=finished.rows_in,
        kept=finished.kept,
        dropped=finished.dropped,
        metrics=finished.metrics,
        seconds=round(seconds, 3),
    )
    notes = tuple(stage.notes(finished.metrics))
    return Report(stage.name, finished.rows_in, finished.kept, finished.dropped, seconds, notes)


def _require(store: Tables, stage: Stage) -> None:
    """Refuse to read what is not there, or is no longer what the ledger tells of.

    Raises:
        ValueError: a stage before has not run on what is there now, or has left half a run behind.
    """
    runs = store.runs()
    for name in schema.STAGES[: schema.STAGES.index(str(stage.after)) + 1]:
        if name not in runs:
            what = "has not run there" if name not in store.last_runs() else "has not run since a stage before it did"
        elif not store.is_intact(runs[name]):
            what = "was begun again there and not finished"
        else:
            continue
        raise ValueError(
            f"{store.uri}: {stage.name} builds on what {name} writes, and {name} {what}; "
            f"run spark-submit spark_jobs/{name}.py with the same recipe, or python -m spark_jobs.run"
        )


def _root_cause(stage: str, store: Tables, error: Exception) -> Exception:
    """What a user can mend behind a failure of Spark or Delta, as one sentence; the original where it is a defect."""
    text = str(error)
    if _free_bytes(store) < _FULL_BYTES:
        return OSError(f"{stage}: no space left on device for {store.uri}; free some, and the same command continues")
    if "No space left on device" in text:
        return OSError(f"{stage}: no space left on device for the release or temporary files; free some and run again")
    if isinstance(error, OSError):
        return error
    # the last exception of a Python worker's traceback is the one that ended it
    raised = re.findall(r"^\s*(?:[\w.]+\.)?([A-Z]\w*(?:Error|Exception)): (.+)$", text, re.MULTILINE)
    kinds = {"ValueError": ValueError, "ConfigError": ValueError, "OSError": OSError}
    kinds |= {"FileNotFoundError": OSError, "PermissionError": OSError}
    if raised and raised[-1][0] in kinds:
        kind, message = raised[-1]
        return kinds[kind](f"{stage}: {message}")
    return error


def _free_bytes(store: Tables) -> int:
    """Room on the store's disk; some libraries say nothing of a full one but that a write came out short."""
    return sys.maxsize if "://" in store.uri else shutil.disk_usage(store.uri).free


@contextmanager
def opened(config: CurationConfig) -> Iterator[tuple[Tables, Callable[[], SparkSession]]]:
    """A store that only this process writes, and a session that starts at its first use.

    Raises:
        ValueError: another process is writing the store, or a takedown was not finished.
    """
    store = Tables(config.store)
    local = "://" not in store.uri
    logs = Path(store.uri if local else os.environ.get("TMPDIR", "/tmp")) / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    lock = lock_store(Path(store.uri) / "lock") if local else None
    refuse_unfinished(store)
    running: list[SparkSession] = []
    manager = session(config.runtime, logs / "spark.log")

    def spark() -> SparkSession:
        if not running:
            running.append(manager.__enter__())
        return running[0]

    try:
        yield store, spark
    finally:
        if running:
            manager.__exit__(None, None, None)
        if lock is not None:
            lock.close()


def lock_store(path: Path) -> IO[str]:
    """Hold a store's lock until it is closed or the process dies, however it dies.

    Raises:
        ValueError: another process is writing the store.
    """
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ValueError(f"{path.parent}: another process is writing this store; wait for it or stop it") from None
    return file


def main(stage: Stage) -> None:
    """The command line of one stage's script."""

    def command() -> int:
        parser = argparse.ArgumentParser(
            prog=f"spark-submit spark_jobs/{stage.name}.py",
            description=sys.modules["__main__"].__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog=f"example: spark-submit spark_jobs/{stage.name}.py conf/curation/demo.yaml runtime.partitions=8",
        )
        parser.add_argument("recipe", help="a YAML file of conf/curation")
        parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted keys of the recipe")
        arguments = parser.parse_intermixed_args()
        config = load(CurationConfig, arguments.recipe, arguments.overrides)
        with opened(config) as (store, spark):
            report = execute(stage, store, config, spark)
        print(Report.HEADER)
        print(report)
        if report.seconds is None:
            print(f"{stage.name} has run with this recipe on these inputs; nothing to do")
        return 0

    entry_point(command)
