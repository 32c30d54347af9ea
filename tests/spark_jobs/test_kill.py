"""kill -9 at moments nobody chose: the run that is started again ends as if nothing had happened."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.spark_jobs.equality import assert_same_release, assert_same_tables

pytestmark = [pytest.mark.spark, pytest.mark.slow]

KILLS = 3


def start(pocket, out, log):
    command = [sys.executable, "-m", "spark_jobs.run", "conf/curation/demo.yaml", *pocket.overrides(out)]
    return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def test_three_kills_leave_no_trace(finished, pocket, tmp_path):
    moments = random.Random(int(os.environ.get("OPENLVD_KILL_SEED", "0")))
    kills = 0
    with (tmp_path / "log").open("wb") as log:
        while kills < KILLS:
            process = start(pocket, tmp_path, log)
            try:
                # late enough that Spark is up, and early enough that stages are left
                process.wait(timeout=moments.uniform(12, 30))
                break
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)  # the driver alone: its JVM and workers must give up by themselves
                process.wait()
                kills += 1
        assert kills == KILLS, f"the run ended after {kills} kills; see {tmp_path / 'log'}"
        time.sleep(1)
        assert start(pocket, tmp_path, log).wait(timeout=500) == 0, (tmp_path / "log").read_text()
    assert_same_tables(finished.config.store, str(tmp_path / "store"))
    assert_same_release(finished.release, tmp_path / "release")
