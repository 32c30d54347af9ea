"""K-means as Spark stages against k-means on the driver, rounds that go on after a kill, and balanced samples."""

import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from curation.clusters import kmeans
from curation.store import Store
from spark_jobs import cluster, retrieve
from spark_jobs.lloyd import SparkLloyd
from spark_jobs.rounds import Rounds
from spark_jobs.stage import execute
from tests.spark_jobs.equality import rows
from tests.spark_jobs.pool import Pool, planted

pytestmark = pytest.mark.spark

IN_TASKS = "runtime.cluster.memory_bytes=1"
RECIPE = ["recipe.cluster.model=classical_copy", "recipe.cluster.num_clusters=40", "recipe.cluster.num_iterations=6"]
RECIPE += ["recipe.retrieve.model=classical_copy", "recipe.retrieve.sets={}", "recipe.cluster.sample=300"]


def deduplicated(spark, folder, vectors, *overrides):
    pool = Pool(spark, folder, [*RECIPE, *overrides])
    pool.embed(vectors)
    pool.dedup()
    return pool


def run(pool, stage, *overrides):
    return execute(stage.STAGE, pool.store, pool.config(*overrides), lambda: pool.spark)


def test_tasks_and_the_driver_give_the_same_for_any_partitions(spark, tmp_path):
    vectors = planted(0, 20, 400)
    found = []
    for name, how in {
        "driver": ["runtime.partitions=2"],
        "one": [IN_TASKS, "runtime.partitions=1"],
        "three": [IN_TASKS, "runtime.partitions=3"],
    }.items():
        pool = deduplicated(spark, tmp_path / name, vectors, "recipe.cluster.levels=[12,3]")
        report = run(pool, cluster, *how)
        assert report.kept == report.rows_in == pool.store.table("clusters").num_rows
        assert not (Path(pool.store.uri) / "rounds").exists() or not any((Path(pool.store.uri) / "rounds").iterdir())
        found.append((rows(pool.store, "centroids"), rows(pool.store, "clusters")))
    assert found[0] == found[1] == found[2]
    tree = pool.store.table("centroids")
    for level, (num, above) in enumerate([(40, 12), (12, 3), (3, None)]):
        mine = tree.filter(pc.equal(tree["level"], level))
        assert len(mine) == num
        assert mine["parent"].null_count == (num if above is None else 0)
        assert above is None or set(mine["parent"].to_pylist()) <= set(range(above))
    clusters = pool.store.table("clusters")
    bottom = tree.filter(pc.equal(tree["level"], 0)).sort_by("cluster")["vector"].to_pylist()
    again = kmeans.assign(
        np.stack([vectors[i] for i in clusters["image_id"].to_pylist()]),
        np.frombuffer(b"".join(bottom), "<f4").reshape(40, -1),
    )
    assert again[0].tolist() == clusters["cluster"].to_pylist()


def test_empty_cells_are_refilled_alike(spark, tmp_path):
    vectors = planted(3, 10, 150)
    points = np.stack(list(vectors.values()))
    frame = spark.createDataFrame(
        [(i, bytearray(v.tobytes())) for i, v in vectors.items()], "image_id string, vector binary"
    )
    rounds = Rounds(Store(str(tmp_path)), "run")
    start = np.repeat(points[:3].astype(np.float32), 4, axis=0)  # nine of twelve cells are empty
    seen = [start]
    lloyd = SparkLloyd(frame, 3, rounds)
    rounds.train(lambda: start, lambda c, share: seen.append(lloyd.improved(c, share)) or seen[-1], 3)
    here = kmeans.Lloyd(points, 12)
    for number, (before, after) in enumerate(pairwise(seen)):
        assert here.improved(before, kmeans.weak_share(number, 3)).tobytes() == after.tobytes()
    assert len(np.unique(seen[1], axis=0)) == 12


def test_rounds_go_on_where_they_stopped(tmp_path):
    points = np.stack(list(planted(1, 10, 90).values()))
    whole = kmeans.train(points, 7, 5, 0)
    calls = []

    def improved(centroids, share):
        calls.append(len(calls))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return kmeans.Lloyd(points, 7).improved(centroids, share)

    def train():
        rounds = Rounds(Store(str(tmp_path)), "run")
        return rounds.train(lambda: kmeans.first_centroids(points, 7, 0), improved, 5)

    with pytest.raises(KeyboardInterrupt):
        train()
    (tmp_path / "rounds/run/000004.npy.new").write_bytes(b"half")
    assert train().tobytes() == whole.tobytes()
    assert len(calls) <= 3 + 3, "two rounds were done before"
    Rounds(Store(str(tmp_path)), "run").remove()
    assert not (tmp_path / "rounds/run").exists()


@pytest.mark.slow
def test_killed_between_rounds(spark, tmp_path):
    vectors = planted(2, 20, 400)
    whole, killed = (deduplicated(spark, tmp_path / name, vectors) for name in ("whole", "killed"))
    run(whole, cluster)
    own = [f"store={killed.store.uri}", f"release={tmp_path / 'release'}", "sources.pages=[]", IN_TASKS]
    own += ["recipe.dedup.threshold=0.6", "recipe.dedup.reference_threshold=0.5", "recipe.dedup.against=[]"]
    own += [*RECIPE, "runtime.partitions=2"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "spark_jobs.cluster", "conf/curation/demo.yaml", *own],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        while not any(Path(killed.store.uri).glob("rounds/*/000002.npy")):
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert "cluster" not in killed.store.runs()
    done = max(Path(killed.store.uri).glob("rounds/*/*.npy"))
    time.sleep(1)
    run(killed, cluster, IN_TASKS)
    assert not done.exists()
    for name in ("centroids", "clusters", "decisions"):
        assert rows(killed.store, name) == rows(whole.store, name), name


def test_a_balanced_sample_is_exact_and_accounts_for_every_image(spark, tmp_path):
    pool = deduplicated(spark, tmp_path, planted(0, 20, 400), "recipe.cluster.levels=[12,3]")
    run(pool, cluster)
    report = run(pool, retrieve, "recipe.retrieve.balance.target=100")
    taken = pool.store.table("selection")
    assert taken.num_rows == report.kept == 100
    assert set(taken["source"].to_pylist()) == {"balanced"}
    assert report.dropped == {"over_budget": report.rows_in - 100}
    top = {(row["level"], row["cluster"]): row["parent"] for row in pool.store.table("centroids").to_pylist()}
    concepts = [top[1, top[0, c]] for c in taken["cluster"].to_pylist()]
    assert sorted(np.bincount(concepts).tolist()) == [33, 33, 34]
