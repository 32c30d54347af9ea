"""kill -9 while tiles are joined and while components are found: whoever starts it again sees no difference."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.spark_jobs.equality import rows
from tests.spark_jobs.pool import Pool, against, planted

pytestmark = [pytest.mark.spark, pytest.mark.slow]

# what appears in the store when a phase begins
PHASES = {"join": "tables/tiles/_delta_log/*1.json", "components": "scratch/*/edges/_SUCCESS"}


def kill_at(pool, phase, log):
    command = [sys.executable, "-m", "spark_jobs.dedup", "conf/curation/demo.yaml", *pool.overrides]
    process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    store = Path(pool.store.uri)
    while not any(store.glob(PHASES[phase])):
        assert process.poll() is None, f"it ended before {phase}"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)  # the driver alone: its JVM and workers must give up by themselves
    process.wait()
    assert "dedup" not in pool.store.runs()


def test_killed_in_the_join_and_among_components(spark, tmp_path):
    vectors, leaks = planted(5, 200, 300), planted(5, 20, 10)
    overrides = ["recipe.dedup.threshold=0.6", *against("exam"), "recipe.dedup.reference_threshold=0.5"]
    overrides += ["sources.pages=[]", "runtime.partitions=2"]
    whole, killed = (Pool(spark, tmp_path / name, list(overrides)) for name in ("whole", "killed"))
    for pool in (whole, killed):
        pool.overrides += [f"store={pool.store.uri}", f"release={pool.folder / 'release'}"]
        pool.embed(vectors, {"exam": leaks})
    with (tmp_path / "log").open("wb") as log:
        for phase in PHASES:
            kill_at(killed, phase, log)
            time.sleep(1)
    whole.dedup()
    killed.dedup()
    for name in ("tiles", "edges", "components", "forest", "decisions"):
        assert rows(killed.store, name) == rows(whole.store, name), name
    assert not (Path(killed.store.uri) / "scratch").exists() or not any((Path(killed.store.uri) / "scratch").iterdir())
