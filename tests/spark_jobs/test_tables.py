import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from curation import schema
from curation.schema import Reason
from spark_jobs.ledger import ledger_rows
from spark_jobs.tables import RUN_ID, RunKey, Tables

pytestmark = pytest.mark.spark


def key(run_id="r1", stage="screen"):
    return RunKey(stage, run_id, {"min_side": 64}, {"sources.images": "f0"})


def clusters(spark, rows):
    return spark.createDataFrame(rows, "collection string, image_id string, cluster int, similarity float")


def decisions(spark, *reasons):
    rows = spark.createDataFrame([(f"{i:032x}", r) for i, r in enumerate(reasons)], "image_id string, reason string")
    return ledger_rows(rows, image_id="image_id", reason="reason")


def test_a_commit_carries_its_lineage_and_is_read_back(spark, tmp_path):
    store = Tables(str(tmp_path))
    store.write(schema.CLUSTERS, clusters(spark, [("pool", "a", 1, 0.5), ("pool", "b", 2, 0.25)]), key())
    assert store.table("clusters").sort_by("image_id").to_pylist() == [
        {"collection": "pool", "image_id": "a", "cluster": 1, "similarity": 0.5},
        {"collection": "pool", "image_id": "b", "cluster": 2, "similarity": 0.25},
    ]
    assert store.table("clusters").schema == schema.CLUSTERS.schema
    commit = DeltaTable(store.table_uri("clusters")).history(1)[0]
    assert commit[RUN_ID] == "r1"
    assert json.loads(commit["openlvd.recipe"]) == {"min_side": 64}
    assert json.loads(commit["openlvd.inputs"]) == {"sources.images": "f0"}
    assert store.frame(spark, schema.CLUSTERS).count() == 2


def test_another_run_replaces_and_the_same_run_does_nothing(spark, tmp_path):
    store = Tables(str(tmp_path))
    store.write(schema.CLUSTERS, clusters(spark, [("pool", "a", 1, 0.5)]), key("r1"))
    store.write(schema.CLUSTERS, clusters(spark, [("pool", "z", 9, 0.5)]), key("r1"))
    assert store.table("clusters")["image_id"].to_pylist() == ["a"]
    store.write(schema.CLUSTERS, clusters(spark, [("pool", "b", 1, 0.5)]), key("r2"))
    assert store.table("clusters")["image_id"].to_pylist() == ["b"]
    old = DeltaTable(store.table_uri("clusters"), version=1)
    assert pq.read_table(old.file_uris()[0])["image_id"].to_pylist() == ["a"]


def test_a_table_without_rows_is_a_table(spark, tmp_path):
    store = Tables(str(tmp_path))
    store.write(schema.CLUSTERS, clusters(spark, []), key())
    assert store.table("clusters").num_rows == 0
    assert store.frame(spark, schema.CLUSTERS).count() == 0
    assert store.written_by(schema.CLUSTERS, "r1")


def test_files_that_no_commit_names_are_not_read(spark, tmp_path):
    store = Tables(str(tmp_path))
    store.write(schema.CLUSTERS, clusters(spark, [("pool", "a", 1, 0.5)]), key())
    part = next((tmp_path / "tables" / "clusters").glob("part-*.parquet"))
    part.with_name("part-orphan.parquet").write_bytes(part.read_bytes())
    assert store.table("clusters").num_rows == 1
    assert store.frame(spark, schema.CLUSTERS).count() == 1


def test_the_ledger_only_grows_and_takes_a_run_once(spark, tmp_path):
    store = Tables(str(tmp_path))
    for run in (key("r1"), key("r1"), key("r2"), key("r3", "dedup")):
        store.append_decisions(decisions(spark, None, Reason.TOO_SMALL.value), run)
    rows = store.table("decisions")
    assert sorted(rows["run_id"].to_pylist()) == ["r1", "r1", "r2", "r2", "r3", "r3"]
    assert set(rows["stage"].to_pylist()) == {"screen", "dedup"}
    assert {row["decision"] for row in rows.to_pylist() if row["reason"]} == {"drop"}


def test_a_finished_run_is_current_and_its_sum_is_held(spark, tmp_path):
    store = Tables(str(tmp_path))
    store.append_decisions(decisions(spark, None, None, Reason.TRUNCATED.value), key("r1"))
    store.finish(key("r1"), 3, {"note": 1}, ())
    run = store.runs()["screen"]
    assert (run.run_id, run.rows_in, run.kept, run.dropped, run.metrics) == ("r1", 3, 2, {"truncated": 1}, {"note": 1})
    store.append_decisions(decisions(spark, None), key("r2"))
    with pytest.raises(AssertionError, match="5 rows in, but 1 kept"):
        store.finish(key("r2"), 5, {}, ())
    assert store.runs()["screen"].run_id == "r1", "a run whose sum is wrong must not count as finished"
    assert store.decisions("screen").num_rows == 3
    assert store.kept(spark, "screen").count() == 2


def test_a_reason_outside_the_closed_set_is_refused(spark, tmp_path):
    store = Tables(str(tmp_path))
    store.append_decisions(decisions(spark, "did_not_like_it"), key())
    with pytest.raises(ValueError, match="did_not_like_it"):
        store.finish(key(), 1, {}, ())


def test_a_table_of_another_release_is_refused_with_a_remedy(tmp_path):
    store = Tables(str(tmp_path))
    DeltaTable.create(store.table_uri("clusters"), pa.schema([("image_id", pa.string()), ("old", pa.int32())]))
    with pytest.raises(ValueError, match="another release of openlvd"):
        store.write(schema.CLUSTERS, schema.CLUSTERS.schema.empty_table(), key())


def test_sources_are_remembered_by_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Tables(str(tmp_path / "store"))
    assert store.sources() == {}
    store.write_sources({"photos": "pictures"})
    store.write_sources({"more": "elsewhere"})
    assert set(store.sources()) == {"photos", "more"}
    assert store.shard_uri("photos:a/b.jpg").endswith(f"{tmp_path}/pictures/a/b.jpg")
    with pytest.raises(ValueError, match="outside its root"):
        store.shard_uri("photos:../../etc/passwd")
    with pytest.raises(ValueError, match="unknown source"):
        store.shard_uri("nowhere:a.jpg")


def test_a_store_may_lie_in_a_folder_with_blanks_and_umlauts(spark, tmp_path):
    store = Tables(str(tmp_path / "a b ü"))
    store.write(schema.CLUSTERS, clusters(spark, [("pool", "a", 1, 0.5)]), key())
    assert store.table("clusters").num_rows == store.frame(spark, schema.CLUSTERS).count() == 1


@pytest.mark.parametrize("name", ["a#b", "a%20b", "a?b", "a[1]"])
def test_a_store_whose_path_cannot_be_read_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="name another"):
        Tables(str(tmp_path / name))


def test_a_run_made_again_has_a_new_attempt(spark, tmp_path):
    store = Tables(str(tmp_path))
    for run_id in ("aaaa", "bbbb", "aaaa-1"):
        store.append_decisions(decisions(spark, None), key(run_id))
        store.finish(key(run_id), 1, {}, ())
    assert (store.attempts("aaaa"), store.attempts("bbbb"), store.attempts("cccc")) == (2, 1, 0)
    assert store.last_runs()["screen"].run_id == "aaaa-1"


def test_a_run_is_current_only_while_what_it_read_is(spark, tmp_path):
    store = Tables(str(tmp_path))
    for stage, run_id, inputs in (
        ("index", "i1", {}),
        ("screen", "s1", {"index": "i1"}),
        ("embed", "e1", {"screen": "s1"}),
        ("screen", "s2", {"index": "i1"}),
    ):
        run = RunKey(stage, run_id, {}, inputs)
        store.append_decisions(decisions(spark, None), run)
        store.finish(run, 1, {}, ())
    assert {name: run.run_id for name, run in store.runs().items()} == {"index": "i1", "screen": "s2"}
    assert list(store.last_runs()) == ["index", "screen", "embed"]
    assert set(store.decisions()["run_id"].to_pylist()) == {"i1", "s2"}
