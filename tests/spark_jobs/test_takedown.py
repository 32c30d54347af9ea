"""What was taken down is in no file any more, stays away, and everything else is as it was."""

import itertools
import json
import shutil
import sys

import pyarrow.compute as pc
import pytest

from curation import schema
from curation.audit.internal import internal_checks
from curation.audit.report import Status
from curation.explain import explain
from curation.explanation import render
from curation.links.rules import BlockLists
from curation.neighbours.index import Reader, read_ids
from curation.release.verify import verify
from curation.schema import Reason
from curation.takedown.receipt import refuse_unfinished
from curation.takedown.resolve import Asked
from curation.takedown.tombstones import tombstones
from spark_jobs import removal, takedown
from spark_jobs.tables import Tables
from spark_jobs.takedown import take_down
from tests.curation.release.build import PICTURES
from tests.spark_jobs import snapshots
from tests.spark_jobs.snapshots import CHAINED, EDITED, FETCHED, IDS, OWN, ROSE, SAME, Made, url

B_TEST = FETCHED[12:]
REQUESTS = {
    "an image": (Asked(ids=(IDS[5],)), {IDS[5]}),
    "an image by its URL": (Asked(urls=(url(IDS[6]),)), {IDS[6]}),
    "a domain": (Asked(domains=("b.test",)), set(B_TEST)),
    "a near-duplicate group": (Asked(near=(EDITED,)), {ROSE, EDITED, SAME, CHAINED}),
    "a near-duplicate group by a higher threshold": (Asked(near=(EDITED,), threshold=0.85), {ROSE, EDITED, SAME}),
    "a file of the user's": (Asked(urls=(f"photos:{OWN[0][:6]}.png",)), {OWN[0]}),
}


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    return snapshots.make(tmp_path_factory.mktemp("snapshots"))


@pytest.fixture
def made(untouched, tmp_path):
    shutil.copytree(untouched.root, tmp_path / "copy")
    (tmp_path / "copy" / "store" / "takedowns").mkdir()
    (tmp_path / "copy" / "store" / "takedowns" / "key").write_bytes(b"k" * 32)
    return Made(tmp_path / "copy")


def files_with(made, text, *folders):
    every = (path for folder in folders for path in (made.root / folder).rglob("*") if path.is_file())
    return [str(path.relative_to(made.root)) for path in every if text in path.read_bytes()]


def table_ids(made):
    """Ids that some table names, but for the ledger and the user's own files."""
    found = set()
    for name in [*schema.TABLES, snapshots.EMBEDDINGS.name]:
        rows = made.store.table(name)
        for column in rows.column_names:
            if rows.schema.field(column).type == "string":
                found |= set(rows[column].to_pylist())
    return found & set(IDS)


@pytest.mark.parametrize("what", REQUESTS)
def test_what_was_taken_down_is_nowhere_and_the_rest_is_as_it_was(made, what):
    asked, gone = REQUESTS[what]
    before, rows = made.shards(), {row["image_id"]: row for row in made.release.index.to_pylist()}
    receipt = take_down(made.config, asked)
    assert set(receipt["images"]) == gone

    for image_id in gone:
        assert files_with(made, PICTURES[image_id][-60:], "store", "release") == [], "its bytes"
        named = files_with(made, image_id.encode(), "store", "release")
        assert named == [f"store/takedowns/{receipt['request']}.json"], "the receipt alone names it"
        if image_id in FETCHED and image_id not in asked.ids:
            texts = files_with(made, url(image_id)[-18:].encode(), "store", "release")
            assert set(texts) <= set(named), "its URL"
    assert table_ids(made) == set(IDS) - gone
    for row in made.store.table("tiles").to_pylist():
        tile = Reader().read([(made.store.path(row["shard"]), row["batch"])])
        assert len(tile) == row["num_rows"]
        for image_id, vector in zip(tile.ids.to_pylist(), tile.vectors, strict=True):
            assert vector.tobytes() == snapshots.vector(image_id).tobytes()

    assert list(verify(made.release.uri)) == []
    released = {image.image_id: image.data for image in made.release}
    assert set(released) == set(rows) - gone
    touched = {row["shard"] for image_id, row in rows.items() if image_id in gone}
    after = made.shards()
    assert {name: after[name] for name in before.keys() - touched} == {n: before[n] for n in before.keys() - touched}
    assert receipt["shards"] == [
        {
            "name": name,
            "images": sum(row["shard"] == name for image_id, row in rows.items() if image_id in gone),
            "old_sha256": before[name],
            "new_sha256": after.get(name),
        }
        for name in sorted(touched)
    ]
    assert all(shard["old_sha256"] != shard["new_sha256"] for shard in receipt["shards"])
    for row in made.store.table("images").to_pylist():
        data = made.store.read_image(row["shard"], row["offset_bytes"], row["size_bytes"])
        assert data == PICTURES[row["image_id"]] or row["shard"].startswith("photos:")


@pytest.mark.parametrize("what", REQUESTS)
def test_runs_stay_what_they_are_and_the_audit_agrees(made, what):
    runs = {stage: run.run_id for stage, run in made.store.runs().items()}
    take_down(made.config, REQUESTS[what][0])
    now = made.store.runs()
    assert {stage: run.run_id for stage, run in now.items()} == runs
    assert all(made.store.is_intact(run) for run in now.values())
    assert all(run.rows_in == run.kept + sum(run.dropped.values()) for run in now.values())
    stages = list(now)
    for before, stage in itertools.pairwise(stages):
        assert now[stage].rows_in == now[before].kept + (6 if stage == "index" else 0)
    release = made.release
    checks = internal_checks(made.store, release.manifest, release.index["image_id"].combine_chunks())
    statuses = {check.name: (check.status, check.findings) for check in checks}
    for name in ("ledger", "lineage", "decisions", "provenance", "takedown"):
        assert statuses[name] == (Status.PASS, [])


def test_it_is_refused_when_it_comes_again(made):
    take_down(made.config, Asked(ids=(IDS[5],), domains=("b.test",)))
    stones = tombstones(made.store)
    lists = BlockLists(taken_down=stones)
    for refused in (url(IDS[5]), url(B_TEST[0]), "http://b.test/", "http://other.b.test/x"):
        assert lists.refusing(refused)[0] is Reason.TAKEN_DOWN
    assert lists.refusing("http://a.test/another.png") is None
    assert lists.refusing("http://notb.test/x") is None
    row = {"image_id": IDS[5], "url": "http://elsewhere.test/it.png", "reason": None, "detail": None}
    assert stones.refused(row)["reason"] == "taken_down"
    assert stones.refused(row | {"image_id": IDS[7]}) == row | {"image_id": IDS[7]}
    told = stones.refused(row | {"image_id": IDS[7], "url": "HTTP://B.test:80/a"})
    assert (told["image_id"], told["reason"]) == (None, "taken_down")


def test_copies_that_nobody_named_are_told(made):
    receipt = take_down(made.config, Asked(ids=(ROSE,)))
    left = {
        row["image_id"]: (row["of"], row["similarity"], row["state"]) for row in receipt["near_duplicates_remaining"]
    }
    assert left[SAME] == (ROSE, None, "dropped by screen: pca_hash_duplicate")
    assert left[EDITED][1] == pytest.approx(0.9)
    assert "decided again when dedup runs again" in left[EDITED][2]
    assert set(left) == {SAME, EDITED}
    components = {row["image_id"]: row for row in made.store.table("components").to_pylist()}
    assert {row["component"] for row in components.values()} == {EDITED}, "the lowest id that stays"
    assert {row["representative"] for row in components.values()} == {None}
    ledger = made.store.table("decisions", filter=pc.field("image_id") == EDITED).to_pylist()
    (dropped,) = [row for row in ledger if row["reason"] == "near_duplicate" and row["run_id"] == "dedup-2"]
    assert dropped["evidence"].startswith("takedown:")


def test_the_receipt_is_complete(made):
    receipt = take_down(made.config, Asked(ids=(OWN[0], IDS[5]), reason="asked by mail"))
    places = {row["place"]: row["state"] for row in receipt["places"]}
    assert places[f"photos:{OWN[0][:6]}.png"] == "due"
    done = {"tables", "embeddings", "indexes", "tars of the store", "earlier versions of tables", made.release.uri}
    assert {place for place, state in places.items() if state == "done"} >= done
    assert receipt["asked"]["reason"] == "asked by mail"
    assert (made.root / "photos" / f"{OWN[0][:6]}.png").exists(), "a user's own file is the user's"
    written = json.loads((made.root / "store" / "takedowns" / f"{receipt['request']}.json").read_text())
    assert written == receipt


def test_the_list_names_nobody(made):
    take_down(made.config, REQUESTS["a domain"][0])
    rows = made.store.table("takedowns").to_pylist()
    assert {row["kind"] for row in rows} == {"image", "url", "domain"}
    assert len(rows) == 6 + 6 + 1
    assert "b.test" not in str(rows)


def test_a_release_that_is_not_where_the_recipe_says_is_no_release_without_the_image(made):
    elsewhere = made.config.model_copy(update={"release": str(made.root / "nowhere")})
    asked, before = Asked(ids=(IDS[5],)), made.state()
    for dry_run in (True, False):
        with pytest.raises(ValueError, match=r"nowhere: no release is there, but .*store has published one; give the"):
            take_down(elsewhere, asked, dry_run)
    assert made.state() == before
    assert take_down(elsewhere, asked, without_release=True)["release"] is None
    assert IDS[5] not in table_ids(made)
    assert IDS[5] in made.release.index["image_id"].to_pylist()

    receipt = take_down(made.config, asked)  # with the right one the same request finds what was missed
    assert [shard["images"] for shard in receipt["shards"]] == [1]
    assert IDS[5] not in made.release.index["image_id"].to_pylist()
    assert list(verify(made.release.uri)) == []
    assert take_down(made.config, asked) == receipt


def test_the_same_command_again_does_nothing(made):
    asked = REQUESTS["a domain"][0]
    first = take_down(made.config, asked)
    files = {path: path.stat().st_mtime_ns for path in made.root.rglob("*") if path.is_file()}
    assert take_down(made.config, asked) == first
    now = {path: path.stat().st_mtime_ns for path in made.root.rglob("*") if path.is_file()}
    assert now == files


def test_a_dry_run_changes_nothing(made):
    files = {path: path.read_bytes() for path in made.root.rglob("*") if path.is_file() and path.name != "lock"}
    receipt = take_down(made.config, REQUESTS["a near-duplicate group"][0], dry_run=True)
    assert set(receipt["images"]) == REQUESTS["a near-duplicate group"][1]
    assert {row["state"] for row in receipt["places"]} == {"due"}
    now = {path: path.read_bytes() for path in made.root.rglob("*") if path.is_file() and path.name != "lock"}
    assert now == files


STEPS = {
    "the plan": (takedown, "write_plan"),
    "the tombstones": (removal, "_keep_out"),
    "a tar": (removal, "erase_image"),
    "an index shard": (removal, "forget_in_index"),
    "the tables": (removal, "_forget"),
    "the shards": (removal, "write_release_files"),
    "the release": (removal, "_release"),
    "the runs": (removal, "_restate"),
    "the earlier versions": (removal, "_purge"),
    **{f"commit {n}": (Tables, "rewrite", n) for n in (1, 5, 9, 13, 16)},
    "half the exchange": (removal, "put_in_place"),
}


@pytest.fixture(scope="module")
def whole(untouched, tmp_path_factory):
    root = tmp_path_factory.mktemp("whole") / "copy"
    shutil.copytree(untouched.root, root)
    (root / "store" / "takedowns").mkdir()
    (root / "store" / "takedowns" / "key").write_bytes(b"k" * 32)
    take_down(Made(root).config, REQUESTS["a near-duplicate group"][0])
    return Made(root)


@pytest.mark.parametrize("step", STEPS)
def test_a_death_after_any_step_is_made_good_by_the_same_command(made, whole, step, monkeypatch):
    place, name, *number = STEPS[step]
    original, calls = getattr(place, name), []

    def dies(*arguments, **keywords):
        calls.append(name)
        if step == "half the exchange":
            filesystem, _, release = arguments
            filesystem.mv(release, f"{release}.replaced", recursive=True)
            raise KeyboardInterrupt
        found = original(*arguments, **keywords)
        if len(calls) >= (number or [1])[0]:
            raise KeyboardInterrupt
        return found

    asked = REQUESTS["a near-duplicate group"][0]
    with monkeypatch.context() as patched:
        patched.setattr(place, name, dies)
        with pytest.raises(KeyboardInterrupt):
            take_down(made.config, asked)
    with pytest.raises(ValueError, match="not finished"):
        refuse_unfinished(made.store)
    receipt = take_down(made.config, asked)
    refuse_unfinished(made.store)
    assert made.state() == whole.state()
    paths = [path.relative_to(whole.root) for path in (whole.root / "release").iterdir()]
    assert all(
        (made.root / path).read_bytes() == (whole.root / path).read_bytes() for path in paths if path.suffix == ".tar"
    )
    assert made.release.manifest.merkle_root == whole.release.manifest.merkle_root
    assert list(verify(made.release.uri)) == []
    for image_id in receipt["images"]:
        assert files_with(made, PICTURES[image_id][-60:], "store", "release") == []
    assert [path.name for path in made.root.glob("release*")] == ["release"]
    assert ROSE not in {
        i for shard in made.root.glob("store/indexes/*/*/*") for ids in read_ids(str(shard)) for i in ids.to_pylist()
    }


def test_explain_tells_of_what_was_taken_down(made):
    receipt = take_down(made.config, Asked(ids=(IDS[5], OWN[0])))
    for subject in (IDS[5], url(IDS[5]), f"photos:{OWN[0][:6]}.png"):
        (found,) = explain(made.store, subject)
        assert found.outcome.startswith("taken down")
        assert receipt["request"] in render(found)
    (other,) = explain(made.store, IDS[7])
    assert other.outcome.startswith("released")


def test_what_cannot_be_taken_down_is_an_error(made, monkeypatch):
    with pytest.raises(ValueError, match="threshold"):
        take_down(made.config, Asked(near=(ROSE,), threshold=0.1))
    for arguments, message in ((["--id", "abc"], "32 hex digits"), ([], "nothing is named")):
        monkeypatch.setattr(sys, "argv", ["takedown", "conf/curation/demo.yaml", *arguments])
        with pytest.raises(ValueError, match=message):
            takedown.main()


def test_the_command_prints_the_receipt(made, monkeypatch, capsys):
    own = [f"store={made.root / 'store'}", f"release={made.root / 'release'}", "sources.pages=[]"]
    monkeypatch.setattr(
        sys, "argv", ["takedown", "conf/curation/demo.yaml", *own, "--url", url(IDS[5]), "--reason", "x"]
    )
    assert takedown.main() == 0
    told = capsys.readouterr().out
    assert IDS[5] in told
    assert "images less" in told
