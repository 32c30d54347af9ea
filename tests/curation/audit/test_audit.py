import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.audit.external import external_checks
from curation.audit.internal import NAMES, internal_checks
from curation.audit.report import Audit, Check, Status, conclude, table
from curation.release.reader import ReleaseReader
from curation.store import Store
from tests.curation.audit.history import (
    IDS,
    INDEX,
    RECIPE,
    REFERENCE,
    tables,
    taken_down,
    url,
    write_release,
    write_store,
)
from tests.curation.release.build import PICTURES, REGIONS, picture


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return write_release(tmp_path_factory.mktemp("audit") / "release")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("audit") / "store", tables())


def internal(release, folder, content):
    """Status by check, and all findings, of a store with this content."""
    reader = ReleaseReader(str(release))
    ids = reader.index["image_id"].combine_chunks()
    checks = internal_checks(Store(str(write_store(folder, content))), reader.manifest, ids)
    return {check.name: check.status for check in checks}, " ".join(f for c in checks for f in c.findings)


def test_a_true_history_passes_every_check(release, tmp_path):
    statuses, findings = internal(release, tmp_path, tables())
    assert statuses == dict.fromkeys(NAMES, Status.PASS)
    assert findings == ""
    assert {c.status for c in external_checks(ReleaseReader(str(release)), 2)} == {Status.PASS}


def only(statuses):
    return {name: status for name, status in statuses.items() if status != Status.PASS}


def test_a_ledger_that_lost_a_row(release, tmp_path):
    content = tables()
    content["decisions"] = [r for r in content["decisions"] if (r["stage"], r["image_id"]) != ("dedup", IDS[4])]
    statuses, findings = internal(release, tmp_path, content)
    assert only(statuses) == {"ledger": Status.FAIL, "decisions": Status.FAIL}
    assert f"{IDS[4]}: dedup did not keep it" in findings


def test_a_released_image_that_was_dropped(release, tmp_path):
    content = tables()
    late = {"stage": "screen", "image_id": IDS[7], "decision": "drop", "reason": "too_small", "run_id": "screen-run"}
    content["decisions"].append(late)
    statuses, findings = internal(release, tmp_path, content)
    assert only(statuses) == {"ledger": Status.FAIL, "decisions": Status.FAIL}
    assert f"{IDS[7]}: screen dropped it" in findings


@pytest.mark.parametrize(
    ("column", "value", "word"),
    [
        ("run_id", "another", "no run screen-run"),
        ("inputs", json.dumps({"index": "old"}), "inputs"),
        ("recipe", json.dumps({"min_side": 1}), "recipe"),
        ("tables", json.dumps({"decisions": 99}), "versions"),
    ],
)
def test_a_run_that_is_not_as_stated(release, tmp_path, column, value, word):
    content = tables()
    content["runs"][3][column] = value
    statuses, findings = internal(release, tmp_path, content)
    assert only(statuses) == {"lineage": Status.FAIL}
    assert word in findings


def test_images_that_were_exchanged_and_written_into_index_and_manifest(store, tmp_path):
    exchanged = dict(PICTURES)
    blurred = next(iter(REGIONS))
    exchanged[blurred] = picture(23)  # its id is not held against its bytes: it is said to be blurred
    release = ReleaseReader(str(write_release(tmp_path / "release", pictures=exchanged)))
    assert {c.status for c in external_checks(release, 1)} == {Status.PASS}
    checks = internal_checks(Store(str(store)), release.manifest, release.index["image_id"].combine_chunks())
    assert only({check.name: check.status for check in checks}) == {"lineage": Status.FAIL}


@pytest.mark.parametrize(
    ("stage", "unjudged"),
    [
        ("index", ("provenance", "rights", "takedown")),
        ("embed", ("contamination",)),
        ("dedup", ("contamination",)),
        ("cluster", ()),
    ],
)
def test_the_tables_of_a_newer_run_are_no_evidence(release, tmp_path, stage, unjudged):
    content = tables()
    run = next(row for row in content["runs"] if row["stage"] == stage)
    content["runs"].append(run | {"sequence": 99, "run_id": "newer"})
    assert only(internal(release, tmp_path, content)[0]) == dict.fromkeys(unjudged, Status.NOT_EVALUATED)


def test_what_is_read_as_it_is_now_fails_whatever_the_store_has_done_since(release, tmp_path):
    content = tables()
    content["runs"] += [content["runs"][n] | {"sequence": 90 + n, "run_id": "newer"} for n in (2, 5)]
    content["collections"].append({"collection": "exam", "image_id": IDS[0], "path": "exam:2.png"})
    content["takedowns"].append(taken_down("image", IDS[3]))
    statuses, findings = internal(release, tmp_path, content)
    assert statuses["contamination"] == statuses["takedown"] == Status.FAIL
    assert IDS[0] in findings
    assert IDS[3] in findings


def test_without_requests_none_is_violated(release, tmp_path):
    assert only(internal(release, tmp_path, tables() | {"takedowns": []})[0]) == {}


def test_requests_whose_key_is_gone_are_not_judged(release, tmp_path):
    store = write_store(tmp_path, tables())
    (store / "takedowns" / "key").unlink()
    reader = ReleaseReader(str(release))
    checks = internal_checks(Store(str(store)), reader.manifest, reader.index["image_id"].combine_chunks())
    assert only({check.name: check.status for check in checks}) == {"takedown": Status.NOT_EVALUATED}


@pytest.mark.parametrize(("threshold", "levels"), [(0.5, [0.6, 0.75]), (0.45, [0.45, 0.6, 0.75]), (0.8, [])])
def test_pairs_are_counted_only_where_they_are_stored(tmp_path, threshold, levels):
    dedup = RECIPE["dedup"] | {"reference_threshold": threshold}
    release = ReleaseReader(str(write_release(tmp_path / "release", recipe=RECIPE | {"dedup": dedup})))
    edge = {"index": INDEX, "collection": "exam", "lower_id": IDS[1], "higher_id": REFERENCE, "similarity": 0.7}
    store = Store(str(write_store(tmp_path / "store", tables() | {"edges": [edge]})))
    checks = internal_checks(store, release.manifest, release.index["image_id"].combine_chunks())
    measured = next(check for check in checks if check.name == "contamination").measured
    counted = {name: count for name, count in measured.items() if name.startswith("pairs")}
    assert counted == {f"pairs_from_{level}": int(level <= 0.7) for level in levels}


def test_an_image_from_nowhere(release, tmp_path):
    content = tables()
    content["sightings"] = [row for row in content["sightings"] if row["image_id"] != IDS[2]]
    statuses, findings = internal(release, tmp_path, content)
    assert only(statuses) == {"provenance": Status.FAIL, "rights": Status.WARN}
    assert IDS[2] in findings


def test_an_image_that_opted_out(release, tmp_path):
    content = tables()
    content["sightings"].append({"image_id": IDS[2], "url": "http://other.test/", "rights": ["header:noimageai"]})
    statuses, findings = internal(release, tmp_path, content)
    assert only(statuses) == {"rights": Status.FAIL}
    assert f"{IDS[2]}: header:noimageai" in findings


def test_rights_that_nobody_stated_are_not_a_pass(release, tmp_path):
    content = tables()
    for row in content["sightings"][:6]:
        row["rights"] = []
    assert only(internal(release, tmp_path, content)[0]) == {"rights": Status.WARN}


def test_exact_and_similar_copies_of_an_evaluation_set(release, tmp_path):
    content = tables()
    content["collections"].append({"collection": "exam", "image_id": IDS[0], "path": "exam:2.png"})
    content["edges"] += [
        {"index": INDEX, "collection": "exam", "lower_id": IDS[1], "higher_id": REFERENCE, "similarity": 0.61},
        {"index": INDEX, "collection": "exam", "lower_id": IDS[2], "higher_id": REFERENCE, "similarity": 0.49},
        {"index": INDEX, "collection": "queries", "lower_id": IDS[3], "higher_id": REFERENCE, "similarity": 0.99},
        {"index": INDEX, "collection": "pool", "lower_id": IDS[4], "higher_id": IDS[5], "similarity": 0.99},
        {
            "index": "of another model",
            "collection": "exam",
            "lower_id": IDS[4],
            "higher_id": REFERENCE,
            "similarity": 0.9,
        },
        {"index": INDEX, "collection": "exam", "lower_id": IDS[4], "higher_id": "no longer there", "similarity": 0.9},
    ]
    statuses, findings = internal(release, tmp_path, content)
    assert only(statuses) == {"contamination": Status.FAIL}
    assert [i for i in IDS if i in findings] == IDS[:2]


def test_of_a_set_that_is_another_store_what_that_had_then_counts(release, tmp_path):
    content = tables() | {"collections": [], "references": [{"collection": "exam@7", "image_id": REFERENCE}]}
    for row in content["runs"]:
        row["metrics"] = row["metrics"].replace('"exam": "exam"', '"exam": "exam@7"')
    content["edges"] = [
        {"index": INDEX, "collection": name, "lower_id": image_id, "higher_id": other, "similarity": 0.9}
        for name, image_id, other in [
            ("exam@7", IDS[0], REFERENCE),
            ("exam@7", IDS[1], "no longer in its pool"),
            ("exam@6", IDS[2], REFERENCE),  # the store that was there before
        ]
    ]
    statuses, findings = internal(release, tmp_path, content)
    assert only(statuses) == {"contamination": Status.FAIL}
    assert [i for i in IDS if i in findings] == IDS[:1]


@pytest.mark.parametrize(
    "request_", [taken_down("image", IDS[3]), taken_down("url", url(IDS[3])), taken_down("domain", "garden.test")]
)
def test_a_takedown_that_was_not_done(release, tmp_path, request_):
    content = tables()
    content["takedowns"].append(request_)
    statuses, findings = internal(release, tmp_path, content)
    assert only(statuses) == {"takedown": Status.FAIL}
    assert IDS[3] in findings


def test_missing_evidence_is_not_evaluated(tmp_path):
    content = tables() | {"collections": []}
    statuses, _ = internal(write_release(tmp_path / "a"), tmp_path / "store", content)
    assert only(statuses) == {"contamination": Status.NOT_EVALUATED}
    bare = write_release(tmp_path / "b", runs={}, recipe={"seed": 1})
    statuses, _ = internal(bare, tmp_path / "store", {})
    unknown = ("ledger", "lineage", "decisions", "provenance", "rights", "contamination", "takedown")
    assert only(statuses) == dict.fromkeys(unknown, Status.NOT_EVALUATED)


@pytest.mark.parametrize("kind", ["columns", "types", "hole", "bytes"])
def test_a_malformed_index_fails_and_leaves_the_rest_unjudged(tmp_path, store, kind):
    folder = write_release(tmp_path / "r")
    path = folder / "index.parquet"
    index = pq.read_table(path)
    if kind == "columns":
        pq.write_table(index.rename_columns(["id", *index.column_names[1:]]), path)
    elif kind == "types":
        pq.write_table(index.set_column(3, "offset_bytes", index["offset_bytes"].cast("int32")), path)
    elif kind == "hole":
        pq.write_table(index.set_column(5, "sha256", pa.nulls(len(index), pa.string())), path)
    else:
        path.write_bytes(b"PAR1")
    done = command(folder, "--store", store, "--json", tmp_path / "audit.json")
    assert (done.returncode, done.stderr) == (1, "")
    status = {c.name: c.status for c in Audit.model_validate_json((tmp_path / "audit.json").read_bytes()).checks}
    assert (status.pop("manifest"), status.pop("index"), status.pop("funnel")) == ("FAIL", "FAIL", "PASS")
    assert set(status.values()) == {Status.NOT_EVALUATED}


def test_a_funnel_that_leaks(tmp_path):
    from curation.store import Run

    runs = {
        "screen": Run("screen", "s", {}, {}, {}, 30, 25, {"too_small": 4}, {}),
        "publish": Run("publish", "p", {}, {}, {}, 24, 24, {}, {}),
    }
    checks = external_checks(ReleaseReader(str(write_release(tmp_path / "r", runs=runs))), 1)
    failed = [check for check in checks if check.status == Status.FAIL]
    assert [check.name for check in failed] == ["funnel"]
    assert failed[0].findings == ["screen kept 25, but publish took in 24", "screen: 30 rows in, 25 kept + 4 dropped"]


def test_damage_fails_the_check_it_concerns_and_leaves_the_rest_unjudged(tmp_path):
    folder = write_release(tmp_path / "r")
    (folder / "00000.tar").write_bytes((folder / "00000.tar").read_bytes()[:-2000])
    status = {c.name: c.status for c in external_checks(ReleaseReader(str(folder)), 1)}
    assert [name for name in status if status[name] == Status.FAIL] == ["images"]
    (folder / "manifest.json").write_text("{}")
    status = {c.name: c.status for c in external_checks(ReleaseReader(str(folder)), 1)}
    assert status.pop("manifest") == Status.FAIL
    assert set(status.values()) == {Status.NOT_EVALUATED}


@pytest.mark.parametrize(
    ("statuses", "waived", "code"),
    [
        (("PASS", "PASS"), [], 0),
        (("PASS", "WARN"), [], 0),
        (("NOT_EVALUATED", "PASS"), [], 3),
        (("NOT_EVALUATED", "PASS"), ["c0"], 0),
        (("NOT_EVALUATED", "NOT_EVALUATED"), ["c0"], 3),
        (("FAIL", "NOT_EVALUATED"), [], 1),
        (("FAIL", "PASS"), ["c0"], 1),
    ],
)
def test_the_verdict(statuses, waived, code):
    checks = [Check(name=f"c{n}", status=Status(s), summary="") for n, s in enumerate(statuses)]
    audit = conclude("0", True, checks, waived)
    assert audit.exit_code() == code
    assert Audit.model_validate_json(audit.model_dump_json()) == audit
    with pytest.raises(ValueError, match="the checks are c0, c1"):
        conclude("0", True, checks, ["c9"])


def test_hostile_text_in_the_table():
    check = Check(name="c", status=Status.FAIL, summary="s", findings=["\x1b[2J"])
    assert "\x1b" not in table(conclude(None, True, [check], []))


def command(*arguments):
    words = [sys.executable, "-m", "curation.audit", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True)


def test_the_command(release, store, tmp_path):
    done = command(release, "--store", store, "--waive", "nsfw", "--json", tmp_path / "audit.json")
    assert (done.returncode, done.stderr) == (0, "")
    audit = Audit.model_validate_json((tmp_path / "audit.json").read_bytes())
    assert audit.release == ReleaseReader(str(release)).manifest.digest
    assert len(PICTURES) == next(c for c in audit.checks if c.name == "provenance").measured["images"]
    alone = command(release)
    assert alone.returncode == 3
    assert alone.stdout.count("NOT_EVALUATED") == len(NAMES) + 3
    absent = command(tmp_path / "nowhere")
    assert absent.returncode == 2
    assert absent.stderr.startswith("error: ")
