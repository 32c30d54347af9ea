"""The embed stage: facts that stay and are made once, collections in tars, a kill in the middle, an array's parts."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from conf import load
from curation.schema import POOL
from curation.store import Store
from spark_jobs import vectors
from spark_jobs.config import CurationConfig
from spark_jobs.run import STAGES
from spark_jobs.vacuum import find_waste
from tests.curation.descriptors.working import picture
from tests.spark_jobs.equality import rows

pytestmark = pytest.mark.spark

TABLE = "embeddings_classical_scene"


def overrides(root, *more):
    return [
        f"store={root / 'store'}",
        f"release={root / 'release'}",
        f"sources.images.photos={root / 'photos'}",
        f"sources.collections.exam={root / 'exam'}",
        "recipe.embed.models.copy_network={adapter: classical_copy}",
        "runtime.embed.images_per_task=3",
        "recipe.screen.detectors={}",
        *more,
    ]


def config(root, *more):
    return load(CurationConfig, "conf/curation/own.yaml", overrides(root, *more))


def put(root, seeds):
    for seed in seeds:
        path = root / "photos" / f"{seed}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(seed, side=80))


def put_exam(root, seeds):
    """A collection as a tar, with a text beside a picture."""
    (root / "exam").mkdir(parents=True)
    with tarfile.open(root / "exam" / "a.tar", "w") as tar:
        for seed in seeds:
            path = root / f"{seed}.jpg"
            path.write_bytes(picture(seed, side=80))
            tar.add(path, f"{seed}.jpg")
            path.write_text("a label")
            tar.add(path, f"{seed}.txt")


def facts(store):
    found = store.table(TABLE).to_pylist()
    assert len({(row["image_id"], row["model"]) for row in found}) == len(found), "no row twice"
    return found


def test_a_second_snapshot_embeds_only_what_is_new_and_ends_as_one_run(run_stages, tmp_path):
    grown, whole = tmp_path / "grown", tmp_path / "whole"
    put_exam(grown, [0, 100])  # 0 is in the pool too
    (grown / "exam" / "half.jpg").write_bytes(b"")
    put(grown, range(12))
    run_stages(config(grown), until="embed")
    store = Store(str(grown / "store"))
    first = facts(store)
    assert len(first) == 13
    files = set(Path(store.table_uri(TABLE)).glob("*.parquet"))
    put(grown, range(12, 20))
    (grown / "photos" / "3.jpg").unlink()
    reports = {report.stage: report for report in run_stages(config(grown), until="embed")}
    second = facts(store)
    new = [path for path in Path(store.table_uri(TABLE)).glob("*.parquet") if path not in files]
    assert len(second) == 13 + 8
    assert [row for row in second if row in first] == first, "what was there is as it was"
    assert sum(pq.ParquetFile(path).metadata.num_rows for path in new) == 8

    shutil.copytree(grown / "photos", whole / "photos")
    shutil.copytree(grown / "exam", whole / "exam")
    again = {report.stage: report for report in run_stages(config(whole, "runtime.partitions=1"), until="embed")}
    other = Store(str(whole / "store"))
    assert (
        (reports["embed"].rows_in, reports["embed"].kept) == (again["embed"].rows_in, again["embed"].kept) == (19, 19)
    )
    ids = pc.unique(store.decisions("embed")["image_id"])
    assert len(vectors.load(store, "classical_scene", "exam")) == 2
    for collection in (POOL, "exam"):
        one, two = (vectors.load(each, "classical_scene", collection, ids) for each in (store, other))
        assert one.ids.tolist() == two.ids.tolist()
        assert one.vectors.tobytes() == two.vectors.tobytes()
    assert rows(store, "collections") == rows(other, "collections")
    passed_over = store.runs()["embed"].metrics["collection_files_passed_over_first"]
    assert passed_over == ["exam:half.jpg: empty_file"]
    assert any("half.jpg" in note for note in reports["embed"].notes)
    members = store.table("collections").to_pylist()
    assert {row["path"] for row in members} == {"a.tar#0.jpg", "a.tar#100.jpg"}
    assert store.read_image(*(members[0][c] for c in ("shard", "offset_bytes", "size_bytes")))[:2] == b"\xff\xd8"
    assert not (grown / "store" / "work").exists() or not any((grown / "store" / "work").iterdir())


@pytest.mark.slow
def test_a_kill_loses_no_unit_and_leaves_no_trace(run_stages, tmp_path):
    put(tmp_path, range(40))
    put_exam(tmp_path, [100])
    run_stages(config(tmp_path), until="screen")
    store, embed = Store(str(tmp_path / "store")), STAGES[4]
    assert embed.name == "embed"
    command = [
        sys.executable,
        "-m",
        "spark_jobs.run",
        "conf/curation/own.yaml",
        *overrides(tmp_path),
        "--until",
        "embed",
    ]
    with (tmp_path / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        folder = Path(store.table_uri(TABLE))
        while len(list(folder.glob("part-*.parquet"))) < 2:
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    time.sleep(2)  # workers find their pipes closed
    assert "embed" not in store.runs()
    done = {path: path.stat().st_mtime_ns for path in folder.glob("part-*.parquet")}
    assert find_waste(store) == [] or all("half-written" in each.why for each in find_waste(store))
    run_stages(config(tmp_path), until="embed")
    assert len(facts(store)) == 41
    assert {path: path.stat().st_mtime_ns for path in done} == done, "what was done is not done again"


def test_what_an_array_has_embedded_the_stage_adds(run_stages, tmp_path):
    put(tmp_path, range(7))
    put_exam(tmp_path, [100])
    by_array = config(tmp_path, "runtime.embed.by=array")
    with pytest.raises(ValueError, match=r"units are to be embedded.* python -m curation.descriptors.array"):
        run_stages(by_array, until="embed")
    command = [sys.executable, "-m", "curation.descriptors.array", by_array.store, "--cluster", "debug"]
    subprocess.run(command, check=True)
    store = Store(by_array.store)
    put(tmp_path, [7])  # while the jobs ran; what they did is not done again
    with pytest.raises(ValueError, match="2 of 2 units are to be embedded"):
        run_stages(by_array, until="embed")
    assert len(facts(store)) == 8
    subprocess.run(command, check=True)
    run_stages(by_array, until="embed")
    assert len(facts(store)) == 9
    assert store.runs()["embed"].kept == 8
    assert not find_waste(store)
    assert dataclasses.asdict(store.runs()["embed"])["metrics"]["classical_scene"]["collection_images_lost"] == 0
