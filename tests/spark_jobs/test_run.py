"""The pipeline as a whole, on the pocket web: what it finds, what it repeats, and who can read it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars
import pyarrow.compute as pc
import pytest
import webdataset
from deltalake import DeltaTable
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from curation import schema
from curation.images.ids import image_id
from curation.release.reader import ReleaseReader
from curation.release.verify import verify
from curation.schema import Reason
from spark_jobs.run import STAGES, plan, status
from spark_jobs.stage import execute
from spark_jobs.tables import RunKey, Tables
from tests.spark_jobs.equality import rows

pytestmark = pytest.mark.spark


def truth(pocket):
    return json.loads((pocket.web / "truth.json").read_text())


def test_every_planted_case_ends_as_planted(finished, pocket):
    """The copies that a classical descriptor may miss are counted apart, below."""
    ledger = finished.store.decisions()
    dropped = {
        (row["stage"], subject): row["reason"]
        for row in ledger.to_pylist()
        for subject in (row["url"], row["image_id"])
        if row["decision"] == schema.DROP and subject
    }
    sightings = dict(zip(*(finished.store.table("files")[c].to_pylist() for c in ("url", "image_id")), strict=True))
    wrong = []
    for case in truth(pocket)["cases"]:
        if case["stage"] in ("extract_links", "download", "index", "screen") and case["expected"] != "keep":
            subject = case["url"] if case["stage"] != "screen" else sightings.get(case["url"])
            found = dropped.get((case["stage"], subject))
            if found not in {case["expected"], *case["also"]} and not case["either"]:
                wrong.append((case["kind"], case["url"], case["expected"], found))
    assert not wrong, wrong


def test_rows_in_are_kept_or_dropped_for_a_known_reason_in_every_stage(finished):
    runs = finished.store.runs()
    assert list(runs) == [stage.name for stage in STAGES]
    for name, run in runs.items():
        ledger = finished.store.decisions(name)
        assert ledger.num_rows == run.rows_in == run.kept + sum(run.dropped.values()), name
        assert {Reason(reason) for reason in run.dropped} <= set(Reason)
    for before, after in (("index", "screen"), ("screen", "embed"), ("embed", "dedup"), ("dedup", "cluster")):
        assert runs[before].kept == runs[after].rows_in


def test_near_duplicates_name_a_witness_that_is_similar(finished):
    edges = finished.store.table("edges", filter=pc.field("collection") == "pool").to_pylist()
    similar = {frozenset((e["lower_id"], e["higher_id"])): e["similarity"] for e in edges}
    near = [r for r in finished.store.decisions("dedup").to_pylist() if r["reason"] == Reason.NEAR_DUPLICATE]
    assert near
    for row in near:
        assert similar[frozenset((row["image_id"], row["evidence"]))] == pytest.approx(row["score"])
        assert row["score"] > row["threshold"]


def test_chains_lose_their_middle_alone(finished, pocket):
    """A-B and B-C are found, A and C stay: whole components would drop one of them too."""
    near = {
        r["image_id"] for r in finished.store.decisions("dedup").to_pylist() if r["reason"] == Reason.NEAR_DUPLICATE
    }
    parts = {row["image_id"]: row["component"] for row in finished.store.table("components").to_pylist()}
    ends = [case["image_id"] for case in truth(pocket)["cases"] if case["kind"] == "drift_end"]
    middles = [case["image_id"] for case in truth(pocket)["cases"] if case["kind"] == "drift_middle"]
    assert not near & set(ends)
    assert near >= set(middles)
    chained = [parts[a] == parts[b] for a, b in zip(ends[::2], ends[1::2], strict=True) if a in parts and b in parts]
    assert sum(chained) == len(middles) > 0
    dropped = finished.store.runs()["dedup"].metrics["near_duplicates"]
    assert dropped["paper"] >= dropped["witness"] + sum(chained)


def test_no_evaluation_image_is_released(finished):
    released = set(ReleaseReader(str(finished.release)).index["image_id"].to_pylist())
    evaluation = finished.store.table("collections", filter=pc.field("collection") == "heldout")
    assert released
    assert not released & set(evaluation["image_id"].to_pylist())


def test_a_second_run_does_nothing(finished, run_stages):
    versions = {name: DeltaTable(finished.store.table_uri(name)).version() for name in ("decisions", "runs", "edges")}
    manifest = (finished.release / "manifest.json").stat().st_mtime_ns
    assert all(report.seconds is None for report in run_stages(finished.config))
    assert versions == {name: DeltaTable(finished.store.table_uri(name)).version() for name in versions}
    assert (finished.release / "manifest.json").stat().st_mtime_ns == manifest
    assert all(reason is None for _, reason in plan(finished.store, finished.config))


def test_the_plan_says_what_a_changed_recipe_would_repeat(finished, pocket):
    before = finished.config.recipe.dedup.threshold
    changed = pocket.config(finished.release.parent, "recipe.dedup.threshold=0.77")
    reasons = dict(plan(finished.store, changed))
    assert reasons["embed"] is None
    assert reasons["dedup"] == f"its recipe changed: threshold {before} -> 0.77"
    assert reasons["cluster"] == "its input changed: dedup"
    nested = pocket.config(
        finished.release.parent,
        "recipe.screen.detectors.other={adapter: opencv_haar}",
        "recipe.retrieve.sets.queries.k=3",
        "recipe.retrieve.sets.heldout={method: cluster}",
    )
    reasons = dict(plan(finished.store, nested))
    assert reasons["screen"] == "its recipe changed: detectors.other came"
    assert reasons["retrieve"] == "its recipe changed: sets.queries.k 32 -> 3, sets.heldout came"
    fresh = dict(plan(Tables(str(finished.release.parent / "nowhere")), changed))
    assert set(fresh.values()) == {"it has not run"}


def test_sources_without_a_picture_are_refused(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/readme.txt").write_text("not a picture")
    places = [f"store={tmp_path}/store", f"release={tmp_path}/release", f"sources.images.own={tmp_path}/texts"]
    command = [sys.executable, "-m", "spark_jobs.run", "conf/curation/own.yaml", *places]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "no_picture 1" in ended.stdout
    assert re.search(r"texts: no picture came from there; .*curation\.explain .*/store PATH_OR_URL", ended.stderr)
    assert not (tmp_path / "release").exists()


def test_the_status_has_a_line_for_every_stage(finished):
    lines = status(finished.store)
    assert [line.split()[0] for line in lines] == [stage.name for stage in STAGES]


def test_the_log_has_a_line_for_every_stage(finished):
    events = [json.loads(line) for line in open(finished.store.path("logs", "run.jsonl"))]  # noqa: PTH123, SIM115
    ended = {event["stage"]: event for event in events if event["event"] == "stage_finished"}
    assert set(ended) == {stage.name for stage in STAGES}
    assert ended["screen"]["rows_in"] == ended["screen"]["kept"] + sum(ended["screen"]["dropped"].values())


@pytest.mark.parametrize("name", ["links", "decisions", "images", "embeddings_classical_copy", "runs"])
def test_deltalake_and_polars_read_the_tables(finished, name):
    uri = finished.store.table_uri(name)
    ours = finished.store.table(name).num_rows
    local = SubTreeFileSystem(uri, LocalFileSystem())  # delta-rs's own may abort the process at its exit
    theirs = DeltaTable(uri).to_pyarrow_table(filesystem=local).num_rows
    assert ours == theirs == polars.read_delta(uri).height > 0


def test_webdataset_reads_the_shards(finished):
    shards = sorted(str(path) for path in finished.release.glob("*.tar"))
    samples = list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False))
    index = ReleaseReader(str(finished.release)).index
    assert [sample["__key__"] for sample in samples] == index["image_id"].to_pylist()
    for sample in samples[:20]:
        extension = next(key for key in sample if key in ("jpg", "png", "webp", "gif", "bmp", "tif"))
        about = json.loads(sample["json"])
        assert (image_id(sample[extension]) == sample["__key__"]) == (about["blurred"] == [])
        assert about["urls"]


def test_the_release_verifies(finished):
    assert list(verify(str(finished.release))) == []


def copy_of(finished, tmp_path):
    """A store of its own with the same runs, that a test may change."""
    out = tmp_path / "copy"
    shutil.copytree(Path(finished.config.store).parent, out)
    places = {"store": str(out / "store"), "release": str(out / "release")}
    return finished.config.model_copy(update=places), Tables(places["store"])


def test_a_release_that_is_gone_is_written_again_as_another_attempt(finished, run_stages, tmp_path):
    config, store = copy_of(finished, tmp_path)
    shutil.rmtree(config.release)
    reports = run_stages(config)
    assert [report.stage for report in reports if report.seconds is not None] == ["publish"]
    first = finished.store.runs()["publish"].run_id
    assert store.runs()["publish"].run_id == f"{first}-1"
    for path in finished.release.iterdir():
        if path.name != "manifest.json":  # it names the attempt
            assert path.read_bytes() == (Path(config.release) / path.name).read_bytes(), path.name
    assert list(verify(config.release)) == []


def test_another_recipe_and_back_ends_in_the_same_tables(finished, pocket, run_stages, tmp_path):
    config, store = copy_of(finished, tmp_path)
    before = {name: rows(store, name) for name in ("edges", "components", "forest", "selection")}
    other = config.model_copy(update={"recipe": pocket.config(tmp_path, "recipe.dedup.threshold=0.9").recipe})
    run_stages(other, until="dedup")
    assert rows(store, "edges") == before["edges"], "a higher threshold finds no edge and forgets none"
    assert rows(store, "components") != before["components"]
    assert list(store.runs())[-1] == "dedup", "what rests on another deduplication is not current"
    run_stages(config)
    assert {name: rows(store, name) for name in before} == before
    assert list(store.runs()) == list(schema.STAGES)
    assert all(reason is None for _, reason in plan(store, config))


def test_a_stage_refuses_tables_that_were_begun_again(finished, spark, tmp_path):
    config, store = copy_of(finished, tmp_path)
    half_done = RunKey("embed", "ffff", {}, {})
    store.write(schema.COLLECTIONS, schema.COLLECTIONS.schema.empty_table(), half_done)
    with pytest.raises(ValueError, match="embed was begun again there and not finished"):
        execute(STAGES[5], store, config, lambda: spark)


@pytest.mark.parametrize("place", ["a folder of photographs", "the store's folder", "a source"])
def test_nothing_but_a_release_is_published_over(finished, tmp_path, place):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "holiday.jpg").write_bytes(b"x")
    release = {
        "a folder of photographs": photos,
        "the store's folder": Path(finished.config.store).parent,
        "a source": Path(finished.config.sources.collections["heldout"]),
    }[place]
    with pytest.raises(ValueError, match="release="):
        plan(finished.store, finished.config.model_copy(update={"release": str(release)}))
    assert (photos / "holiday.jpg").exists()
