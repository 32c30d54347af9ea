"""The array of jobs: submitit's processes on this machine, a kill, and what vouches for a plan."""

import os
import signal
import subprocess
import sys
import time

import pytest
from deltalake import DeltaTable

from curation.descriptors import plan as plans
from curation.descriptors.array import logs_of
from curation.descriptors.base import EmbedderSpec
from curation.descriptors.loading import load_embedder
from curation.descriptors.plan import embed_unit, pending
from curation.store import Store
from tests.curation.descriptors.working import SPEC, encoded, parts, planned, put_shard

COMMAND = [sys.executable, "-m", "curation.descriptors.array"]
QUICK = EmbedderSpec(adapter="classical_scene")


def start(store, *options, **more):
    return subprocess.Popen([*COMMAND, store.uri, *options], stderr=subprocess.PIPE, stdout=subprocess.PIPE, **more)


def test_jobs_of_this_machine_do_all_units_once(tmp_path):
    pictures = encoded(9)
    store, plan = planned(tmp_path, put_shard(tmp_path, pictures), per_unit=2)
    jobs = start(store, "--cluster", "local", "--jobs", "2", "--threads", "1")
    out, error = jobs.communicate(timeout=300)
    assert jobs.returncode == 0, error
    assert b"5 of 5 units to do, of 9 images" in out
    rows = parts(store, plan)
    assert len({row["image_id"] for row in rows}) == len(rows) == 9
    assert sum(row["vector"] is None for row in rows) == 2
    # as one process gives them
    other, same = planned(tmp_path / "other", put_shard(tmp_path / "other", pictures), per_unit=9)
    embed_unit(other, same, same.units[0], load_embedder(SPEC), threads=2)
    assert parts(other, same) == rows


def test_a_killed_job_is_continued_and_nothing_half_written_counts(tmp_path):
    rows = put_shard(tmp_path, encoded(120))
    store, plan = planned(tmp_path, rows, per_unit=4, spec=QUICK)
    job = start(store, "--cluster", "debug", "--threads", "1", start_new_session=True)
    while len(pending(store, plan)) > 25 and job.poll() is None:
        time.sleep(0.02)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    left = pending(store, plan)
    assert 0 < len(left) < 30
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "tables" / plan.table).glob("part-*.parquet")}
    last = start(store, "--cluster", "debug")
    last.communicate(timeout=300)
    assert last.returncode == 0
    assert b"0 of 30 units to do" in start(store).communicate(timeout=60)[0]
    assert pending(store, plan) == []
    assert [row["image_id"] for row in parts(store, plan)] == sorted({row["image_id"] for row in rows})
    assert {path: path.stat().st_mtime_ns for path in done} == done, "what was done is not done again"


def test_a_failure_that_the_table_knows_is_no_second_row(tmp_path):
    rows = put_shard(tmp_path, encoded(5))
    known = [{**row, "has_error": True} for row in rows]
    store, plan = planned(tmp_path, known, per_unit=5, spec=QUICK)
    embed_unit(store, plan, plan.units[0], load_embedder(QUICK), threads=1)
    found = parts(store, plan)
    assert {row["image_id"] for row in found} == {rows[i]["image_id"] for i in (0, 1, 3)}
    assert all(row["vector"] for row in found)
    assert plans.num_rows(store, plan, plan.units[0]) == 3


def test_a_plan_of_another_version_of_the_table_is_void(tmp_path):
    store, plan = planned(tmp_path, put_shard(tmp_path, encoded(2)), per_unit=2, spec=QUICK)
    assert plans.plans(store) == [plan]
    table = DeltaTable(store.table_uri(plan.table))
    table.create_write_transaction([], "append", table.schema())
    assert plans.plans(store) == []
    plans.remove_plan(store, plan.key)
    assert plans.read_plan(store, plan.key) is None


@pytest.mark.parametrize("options", [[], ["--jobs", "0"]])
def test_what_cannot_be_is_one_sentence(tmp_path, options):
    done = start(Store(str(tmp_path)), *options)
    _, error = done.communicate(timeout=60)
    assert done.returncode == 2
    assert error.decode().startswith("error: ")
    assert ("runtime.embed.by=array" if not options else "--jobs 0") in error.decode()


def test_the_jobs_output_goes_where_files_can_be(tmp_path):
    assert logs_of(Store(str(tmp_path)), None) == tmp_path / "logs" / "jobs"
    assert logs_of(Store(f"file://{tmp_path}"), None) == tmp_path / "logs" / "jobs"
    assert logs_of(Store("memory://store"), tmp_path) == tmp_path
    with pytest.raises(ValueError, match=r"memory://store is in no file system .* give --logs"):
        logs_of(Store("memory://store"), None)


def test_the_array_needs_neither_spark_nor_java():
    code = "import sys, curation.descriptors.array; assert not {'pyspark', 'py4j', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
