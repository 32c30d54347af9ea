"""kill -9 in the middle of each stage from pages to screened images: the tables end as if nothing had happened."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from curation import schema
from curation.store import Store
from spark_jobs.run import STAGES
from tests.spark_jobs.equality import assert_same_tables, rows

pytestmark = [pytest.mark.spark, pytest.mark.slow]

INGEST = schema.STAGES[: schema.STAGES.index("screen") + 1]
PATIENCE_S = 300.0  # a slow machine is no failure


class Run:
    """One run of the pipeline up to ``screen``, in a process group of its own."""

    def __init__(self, pocket, out):
        self.events = out / "store" / "logs" / "run.jsonl"
        self.log = out / "log"
        command = [sys.executable, "-m", "spark_jobs.run", "conf/curation/demo.yaml", *pocket.overrides(out)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--until", "screen"], stdout=log, stderr=log, start_new_session=True
            )

    def last_event(self):
        """The newest whole line of the event log, as (event, stage)."""
        lines = self.events.read_text().split("\n")[:-1] if self.events.exists() else []
        event = json.loads(lines[-1]) if lines else {}
        return event.get("event"), event.get("stage")

    def wait_for(self, *wanted):
        give_up = time.monotonic() + PATIENCE_S
        while self.last_event() != wanted:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < give_up, f"no {wanted} within {PATIENCE_S} s: {self.log.read_text()}"
            time.sleep(0.02)

    def kill(self):
        """The driver and its JVM at once; Python workers have a group of their own and find their pipes closed."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def killed_inside(stage, delay_s, pocket, out):
    """Start a run, kill it this long after the stage began, and say whether that was before the stage's end."""
    run = Run(pocket, out)
    run.wait_for("stage_started", stage)
    time.sleep(delay_s)
    run.kill()
    return run.last_event() == ("stage_started", stage)


def test_a_kill_in_each_stage_leaves_no_trace(finished, pocket, tmp_path):
    moments = random.Random(int(os.environ.get("OPENLVD_KILL_SEED", "0")))
    out, before = tmp_path / "out", tmp_path / "before"
    out.mkdir()
    for stage in INGEST:
        shutil.copytree(out, before)
        delay_s = moments.uniform(0.1, 0.9) * finished.reports[stage].seconds
        while not killed_inside(stage, delay_s, pocket, out):  # this time the stage was faster: again, and sooner
            shutil.rmtree(out)
            shutil.copytree(before, out)
            delay_s /= 2
            assert delay_s > 0.01, f"{stage} ends as soon as it begins"
        shutil.rmtree(before)
        assert stage not in Store(str(out / "store")).runs()
    last = Run(pocket, out)
    assert last.process.wait(timeout=PATIENCE_S) == 0, last.log.read_text()

    one, other = Store(finished.config.store), Store(str(out / "store"))
    written = [table.name for stage in STAGES if stage.name in INGEST for table in stage.writes(finished.config)]
    assert_same_tables(one.uri, other.uri, written)
    for name in ("decisions", "runs"):
        undisturbed = [row for row in rows(one, name) if any(f"('stage', '{stage}')" in row for stage in INGEST)]
        different = [pair for pair in zip(undisturbed, rows(other, name), strict=True) if pair[0] != pair[1]]
        assert not different, f"{name}: {different[0]}"
