"""The same tables and the same release for any number of partitions, and in executors of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.spark_jobs.equality import assert_same_release, assert_same_tables, num_rows

pytestmark = [pytest.mark.spark, pytest.mark.slow]


@pytest.mark.parametrize("partitions", [1, 2])
def test_the_number_of_partitions_does_not_show(finished, pocket, run_stages, tmp_path, partitions):
    config = pocket.config(tmp_path, f"runtime.partitions={partitions}")
    assert config.runtime.partitions != finished.config.runtime.partitions
    run_stages(config)
    assert_same_tables(finished.config.store, config.store)
    assert_same_release(finished.release, Path(config.release))
    assert num_rows(finished.store)["retrievals"] > 0


def test_executors_in_processes_of_their_own_give_the_same(finished, pocket, tmp_path):
    overrides = [*pocket.overrides(tmp_path), "runtime.spark.master=local-cluster[2,1,2048]"]
    subprocess.run(
        [sys.executable, "-m", "spark_jobs.run", "conf/curation/demo.yaml", *overrides],
        check=True,
        env={**os.environ, "SPARK_LOCAL_IP": "127.0.0.1"},
        timeout=500,
    )
    assert_same_tables(finished.config.store, str(tmp_path / "store"))
    assert_same_release(finished.release, tmp_path / "release")
