"""Sets of every method over the pocket web's pool: what is taken as it is, refused, counted and released."""

import json
import shutil
from pathlib import Path

import pyarrow.compute as pc
import pytest

from curation import composition, schema
from curation.audit.external import external_checks
from curation.audit.internal import internal_checks
from curation.audit.report import Status
from curation.audit.safety import safety_checks
from curation.explain import explain
from curation.images.ids import image_id
from curation.release.reader import ReleaseReader
from curation.release.verify import verify
from curation.schema import Reason
from spark_jobs.retrieve import notes
from spark_jobs.tables import Tables
from tests.spark_jobs.equality import assert_same_release, assert_same_tables

pytestmark = pytest.mark.spark

SETS = {
    "near": {"method": "sample", "collection": "queries", "k": 3},
    "clusters": {"method": "cluster", "collection": "queries", "min_queries": 2, "take": 20, "cap": 30},
    "album": {"method": "as_is", "published": {"task": "photos", "dataset": "Album", "images": 9, "final": 8}},
}


def _jpegs(folder):
    return sorted(path for path in Path(folder).rglob("*") if path.suffix in (".jpg", ".jpeg"))


@pytest.fixture(scope="module")
def album(pocket, finished, tmp_path_factory):
    """A set of its own: new pictures, one with a face, some that the pool has or has dropped, and what may not be."""
    folder = tmp_path_factory.mktemp("album")
    pool, dropped = {}, {}
    ledger = {row["image_id"]: row for row in finished.store.decisions("dedup").to_pylist()}
    with finished.store.shard_reader() as read:
        for row in finished.store.table("images").to_pylist():
            reason = ledger.get(row["image_id"], {"reason": "not there"})["reason"]
            data = read(row["shard"], row["offset_bytes"], row["size_bytes"])
            (pool if reason is None else dropped.setdefault(reason, {}))[row["image_id"]] = data
    faces = finished.store.table("detections", ["image_id"], pc.field("label") == "face")["image_id"].to_pylist()
    files = {f"new{number}": path.read_bytes() for number, path in enumerate(_jpegs(pocket.web / "queries")[:4])}
    # saved again: what is no copy of a file of the pool
    from PIL import Image

    with_face = next(data for i, data in pool.items() if i in faces)
    (folder / "face.bin").write_bytes(with_face)
    with Image.open(folder / "face.bin") as image:
        image.convert("RGB").save(folder / "face.jpg", quality=97)
    (folder / "face.bin").unlink()
    files |= {f"pool{number}": pool[i] for number, i in enumerate(sorted(pool)[:3])}
    files |= {"near": next(iter(sorted(dropped[Reason.NEAR_DUPLICATE].items())))[1]}
    files |= {"leak": _jpegs(pocket.web / "heldout")[0].read_bytes()}
    files |= {"copy": next(iter(sorted(dropped[Reason.EVALUATION_COPY].items())))[1]}
    files |= {"cut": files["new0"][: len(files["new0"]) // 2]}
    for name, data in files.items():
        (folder / f"{name}.jpg").write_bytes(data)
    shutil.copyfile(folder / "new1.jpg", folder / "twice.jpg")
    return folder


@pytest.fixture(scope="module")
def ids(album):
    return {path.stem: image_id(path.read_bytes()) for path in album.iterdir()}


@pytest.fixture(scope="module")
def chosen(finished, pocket, album, run_stages, tmp_path_factory):
    """The finished run with these sets in place of the demo's."""
    return _run(finished, pocket, album, run_stages, tmp_path_factory.mktemp("chosen") / "run")


def _run(finished, pocket, album, run_stages, out, *overrides):
    shutil.copytree(Path(finished.config.store).parent, out)
    sets = ["recipe.retrieve.sets={}", *(f"recipe.retrieve.sets.{n}={json.dumps(s)}" for n, s in SETS.items())]
    config = pocket.config(out, f"sources.collections.album={album}", *sets, *overrides)
    reports = {report.stage: report for report in run_stages(config)}
    return config, Tables(config.store), reports


def test_what_is_taken_as_it_is_and_what_is_not(chosen, ids):
    _, store, _ = chosen
    ledger = {row["image_id"]: row for row in store.decisions("retrieve").to_pylist()}
    kept = {name for name in ids if ledger[ids[name]]["decision"] == schema.KEEP}
    assert kept == set(ids) - {"leak", "copy", "cut"}
    refused = {name: ledger[ids[name]]["reason"] for name in ("leak", "copy", "cut")}
    assert refused == {"leak": "evaluation_copy", "copy": "evaluation_copy", "cut": "truncated"}
    assert ledger[ids["leak"]]["evidence"].startswith("heldout:")
    selection = {row["image_id"]: row for row in store.table("selection").to_pylist()}
    assert all((selection[ids[n]]["collection"], selection[ids[n]]["source"]) == ("album", "as_is") for n in kept)
    assert all(selection[ids[n]]["cluster"] is not None for n in kept)
    own = {row["image_id"] for row in store.table("own_images").to_pylist()}
    assert own == {ids[n] for n in ids if not n.startswith("pool")}, "those of the pool are the pool's"


def test_units_are_the_pool_and_what_it_lacks(chosen, ids):
    _, store, _ = chosen
    runs = store.runs()
    ledger = store.decisions("retrieve")
    outside = {i for n, i in ids.items() if not n.startswith("pool")}
    assert runs["retrieve"].rows_in == runs["cluster"].kept + len(outside) == ledger.num_rows
    assert len(set(ledger["image_id"].to_pylist())) == ledger.num_rows


def test_the_release_holds_them_and_stands_every_check(chosen, ids):
    config, store, _ = chosen
    release = ReleaseReader(config.release)
    assert list(verify(config.release)) == []
    released = {image.image_id: image for image in release}
    new = released[ids["new2"]]
    assert new.metadata["paths"] == ["album:new2.jpg"]
    assert (new.metadata["set"], new.metadata["method"], new.metadata["urls"]) == ("album", "as_is", [])
    assert released[ids["pool0"]].metadata["urls"], "the pool knows where it was met"
    assert released[ids["face"]].metadata["blurred"], "nobody screened it but for this set"
    checks = external_checks(release, 1) + internal_checks(
        store, release.manifest, release.index["image_id"].combine_chunks()
    )
    checks += safety_checks(release.manifest, release.index, store, None)
    failed = [(check.name, check.findings) for check in checks if check.status == Status.FAIL]
    assert not failed
    assert {c.name for c in checks if c.status == Status.PASS} >= {
        "decisions",
        "provenance",
        "funnel",
        "contamination",
        "faces",
    }
    assert explain(store, ids["new2"])[0].outcome == "released as it was found"


def test_the_composition_adds_up_to_the_release(chosen, capsys):
    config, store, _ = chosen
    rows = {row.name: row for row in composition.of_store(store)}
    release = ReleaseReader(config.release)
    assert sum(row.unique for row in rows.values()) == release.manifest.images
    num_queries = len({r["image_id"] for r in store.table("collections").to_pylist() if r["collection"] == "queries"})
    assert (rows["near"].images, rows["near"].retrieved, rows["near"].final) == (
        num_queries,
        3 * num_queries,
        3 * num_queries,
    )
    taken = store.runs()["retrieve"].metrics["sets"]
    assert taken["near"]["rows"] == 3 * num_queries >= taken["near"]["distinct"]
    assert rows["clusters"].retrieved % 20 == 0
    assert (rows["clusters"].final, taken["clusters"]["rows"]) == (min(30, rows["clusters"].retrieved), 30)
    assert (rows["album"].published, rows["album"].difference) == (8, rows["album"].final - 8)
    card = (Path(config.release) / "README.md").read_text()
    assert composition.markdown(list(rows.values())) in card
    lines = notes(store.runs()["retrieve"].metrics)
    assert lines[0].startswith("concepts: ")
    assert any(line.startswith("near: ") for line in lines)


def test_any_partitions_give_the_same(chosen, finished, pocket, album, run_stages, tmp_path):
    config, _, _ = _run(finished, pocket, album, run_stages, tmp_path / "again", "runtime.partitions=3")
    assert_same_tables(chosen[0].store, config.store)
    assert_same_release(Path(chosen[0].release), Path(config.release))


def test_by_unique_each_query_gets_its_share_from_further_away(chosen, pocket, album, run_stages, tmp_path):
    config, store, _ = chosen
    before = store.runs()["retrieve"].metrics["sets"]["near"]
    shutil.copytree(Path(config.store).parent, tmp_path / "run")
    sets = {name: dict(queries) for name, queries in SETS.items()}
    overrides = ["recipe.retrieve.sets={}", *(f"recipe.retrieve.sets.{n}={json.dumps(s)}" for n, s in sets.items())]
    other = pocket.config(
        tmp_path / "run", f"sources.collections.album={album}", *overrides, "recipe.retrieve.policy=unique"
    )
    run_stages(other, until="retrieve")
    store = Tables(other.store)
    near = store.runs()["retrieve"].metrics["sets"]["near"]
    assert near["rows"] == near["distinct"] == near["credited"] > before["distinct"]
    log = store.table("retrievals", filter=pc.field("collection") == "near").to_pylist()
    assert max(row["rank"] for row in log) == 12, "4 k candidates are looked for"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["recipe.retrieve.sets.heldout={method: as_is}"], "recipe.dedup.against keeps its copies out"),
        (["recipe.retrieve.sets.x={method: sample, collection: nowhere}"], "names 'nowhere'"),
        (["recipe.retrieve.sets.queries={method: sample, k: 9, candidates: 8}"], "candidates 8 are fewer than k 9"),
    ],
)
def test_recipes_that_cannot_be_meant_are_refused(pocket, tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        pocket.config(tmp_path, *overrides)
