import json
import subprocess
import sys

import pytest

from curation.explain import explain
from curation.explanation import render
from curation.store import Store
from tests.curation.audit.stored import HOSTILE, put, run_row

KEPT, COPY, OTHER = "aaaaaaaa" + "0" * 24, "bbbbbbbb" + "0" * 24, "bbbbbbbb" + "1" * 24
ROSE, DAHLIA, BLOCKED = "http://garden.test/rose.png", "http://garden.test/dahlia.png", "http://ads.test/x.gif"
ELSEWHERE = "http://elsewhere.test/b.png"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("explain") / "store"
    put(path, "runs", [
        {**run_row(0, "screen", 9, {}, None), "run_id": "old-screen"},
        *(run_row(n + 1, stage, 3, {}, None) for n, stage in enumerate(("extract_links", "index", "screen", "dedup"))),
    ])  # fmt: skip
    put(path, "decisions", [
        {"stage": "dedup", "image_id": KEPT, "decision": "keep", "run_id": "dedup-run"},
        {"stage": "dedup", "image_id": COPY, "decision": "drop", "reason": "near_duplicate", "score": 0.93,
         "threshold": 0.6, "evidence": KEPT, "model": "m0", "run_id": "dedup-run"},
        {"stage": "screen", "image_id": KEPT, "decision": "keep", "run_id": "screen-run"},
        {"stage": "screen", "image_id": COPY, "decision": "keep", "run_id": "screen-run"},
        {"stage": "screen", "image_id": OTHER, "decision": "drop", "reason": "too_small", "run_id": "screen-run"},
        {"stage": "screen", "image_id": KEPT, "decision": "drop", "reason": "too_small", "run_id": "old-screen"},
        {"stage": "index", "image_id": COPY, "url": DAHLIA, "decision": "keep", "run_id": "index-run"},
        {"stage": "index", "image_id": KEPT, "url": ROSE, "decision": "keep", "run_id": "index-run"},
        {"stage": "index", "image_id": KEPT, "url": HOSTILE, "decision": "drop", "reason": "exact_duplicate",
         "run_id": "index-run"},
        {"stage": "extract_links", "url": ROSE, "decision": "keep", "run_id": "extract_links-run"},
        {"stage": "extract_links", "url": DAHLIA, "decision": "keep", "run_id": "extract_links-run"},
        {"stage": "extract_links", "url": BLOCKED, "decision": "drop", "reason": "blocked_domain",
         "evidence": "ads.test", "run_id": "extract_links-run"},
    ])  # fmt: skip
    pages = {"page_url": "http://garden.test/", "crawl": "c1", "file": "a.warc", "crawled_at": "2024-05-06T00:00:00Z"}
    put(path, "links", [
        {"url": ROSE, "offset": 77, **pages}, {"url": DAHLIA, "offset": 78, **pages},
        {"url": BLOCKED, "offset": 79, "rights": [], **pages}, {"url": HOSTILE, "offset": 80, **pages},
    ])  # fmt: skip
    put(path, "sightings", [
        {"image_id": KEPT, "url": ROSE, "page_url": "http://garden.test/", "rights": ["meta:noindex"]},
        {"image_id": KEPT, "url": HOSTILE, "page_url": "http://garden.test/"},
        {"image_id": COPY, "url": DAHLIA, "page_url": "http://garden.test/"},
        {"image_id": OTHER, "path": "mine:a/b.png", "url": ELSEWHERE, "caption": "a red\x1b[31m rose"},
    ])  # fmt: skip
    place = {"shard": "store:s/0.tar", "offset_bytes": 512, "size_bytes": 9}
    put(path, "images", [{"image_id": i, **place} for i in (KEPT, COPY, OTHER)])
    component = {"component": KEPT, "representative": KEPT, "witness": KEPT, "similarity": 0.93}
    put(path, "components", [{"image_id": COPY, **component}])
    put(path, "clusters", [{"collection": "pool", "image_id": KEPT, "cluster": 4, "similarity": 0.5}])
    put(path, "retrievals", [
        {"collection": "flowers", "query_id": "q", "image_id": KEPT, "rank": r, "similarity": 0.1, "source": "sample"}
        for r in (3, 1, 2)
    ])  # fmt: skip
    put(path, "selection", [{"image_id": KEPT, "collection": "flowers", "source": "sample", "rank": 1, "cluster": 4}])
    return path


def one(store, subject):
    (found,) = explain(Store(str(store)), subject)
    return found


def test_a_kept_image_is_followed_from_the_crawl_to_its_selection(store):
    found = one(store, KEPT)
    assert found.outcome == "kept by every stage so far; the last was dedup; the same bytes were met under 2 names"
    assert [(d["stage"], d["decision"]) for d in found.decisions] == [
        ("extract_links", "keep"), ("index", "drop"), ("index", "keep"), ("screen", "keep"), ("dedup", "keep"),
    ]  # fmt: skip
    rose = found.sightings[1]
    assert (rose["url"], rose["rights"]) == (ROSE, ["meta:noindex"])
    assert [(p["file"], p["offset"]) for p in rose["found_in"]] == [("a.warc", 77)]
    assert [row["rank"] for row in found.retrievals] == [1, 2, 3]
    assert found.clusters[0]["cluster"] == 4
    assert found.selection[0]["collection"] == "flowers"


def test_a_dropped_image_names_reason_score_evidence_and_run(store):
    found = one(store, COPY)
    assert found.outcome == f"dropped by dedup: near_duplicate of {HOSTILE}; similarity 0.93, threshold 0.6"
    assert found.component["witness"] == KEPT
    text = render(found)
    for part in ("near_duplicate", "score 0.93", "threshold 0.6", f"({KEPT[:12]})", "run_id dedup-run", "model m0"):
        assert part in text


def test_an_image_that_goes_with_its_group_says_so(tmp_path):
    put(tmp_path, "runs", [run_row(0, "dedup", 2, {}, None)])
    copy = {"stage": "dedup", "decision": "drop", "reason": "evaluation_copy", "evidence": OTHER, "run_id": "dedup-run"}
    put(tmp_path, "decisions", [{"image_id": KEPT, **copy}, {"image_id": COPY, **copy, "score": 0.9, "threshold": 0.5}])
    assert one(tmp_path, COPY).outcome == f"dropped by dedup: evaluation_copy of {OTHER}; similarity 0.9, threshold 0.5"
    sentence = f"dropped by dedup: evaluation_copy; its group of copies touches evaluation image {OTHER}"
    assert one(tmp_path, KEPT).outcome == sentence


def test_other_images_are_named_as_they_were_met(tmp_path):
    put(tmp_path, "runs", [run_row(0, "dedup", 3, {}, None)])
    drop = {"stage": "dedup", "decision": "drop", "score": 0.9, "threshold": 0.5, "run_id": "dedup-run"}
    put(tmp_path, "decisions", [
        {"image_id": COPY, "reason": "near_duplicate", "evidence": KEPT, **drop},
        {"image_id": OTHER, "reason": "evaluation_copy", "evidence": "e" * 32, **drop},
    ])  # fmt: skip
    put(
        tmp_path, "sightings", [{"image_id": KEPT, "url": DAHLIA}, {"image_id": KEPT, "url": "http://a.test/first.png"}]
    )
    put(tmp_path, "collections", [{"collection": "heldout", "image_id": "e" * 32, "path": "tiles/3.png"}])
    assert f"evidence http://a.test/first.png ({KEPT[:12]})" in render(one(tmp_path, COPY))
    assert "evidence heldout:tiles/3.png (eeeeeeeeeeee)" in render(one(tmp_path, OTHER))


YUNET = {"name": "YuNet", "version": "2023mar", "licence": "MIT", "digest": "d" * 64, "labels": ["face"]}


@pytest.fixture
def looked_at(tmp_path):
    """A store whose screening looked for faces: two in one image, none in the other."""
    screen = run_row(0, "screen", 2, {}, None) | {"metrics": json.dumps({"detectors": {"yunet": YUNET}})}
    put(tmp_path, "runs", [screen, run_row(1, "publish", 2, {}, "screen")])
    keep = {"decision": "keep", "run_id": "publish-run", "stage": "publish"}
    put(tmp_path, "decisions", [
        {"image_id": KEPT, "evidence": '{"blurred":[[1,2,30,40],[50,60,7,8]]}', **keep}, {"image_id": COPY, **keep},
        {"image_id": OTHER, "decision": "drop", "reason": "truncated", "stage": "screen", "run_id": "screen-run"},
    ])  # fmt: skip
    put(tmp_path, "images", [{"image_id": i, "shard": "store:s/0.tar"} for i in (KEPT, COPY, OTHER)])
    face = {"image_id": KEPT, "detector": "yunet", "label": "face", "model": "d" * 64}
    put(tmp_path, "detections", [
        {**face, "score": 0.75, "x": 1, "y": 2, "width": 30, "height": 40},
        {**face, "score": 0.5, "x": 50, "y": 60, "width": 7, "height": 8},
    ])  # fmt: skip
    return tmp_path


def test_what_was_seen_in_a_picture_and_that_it_was_blurred(looked_at):
    found = one(looked_at, KEPT)
    assert found.outcome == "released with 2 regions blurred"
    text = render(found)
    assert "yunet looked for face, found 2: name YuNet  version 2023mar  licence MIT" in text
    assert "face 0.75 at 1,2, 30 x 40 pixels" in text
    assert "face 0.5 at 50,60, 7 x 8 pixels" in text
    plain = one(looked_at, COPY)
    assert plain.outcome == "released as it was found"
    assert "yunet looked for face, found nothing" in render(plain)
    assert "no detector looked" in render(one(looked_at, OTHER)), "it was refused before one did"


def test_where_no_detector_looked_nothing_was_evaluated(store):
    assert "not evaluated: no detector looked" in render(one(store, KEPT))


def test_old_runs_are_not_replayed(store):
    assert "old-screen" not in json.dumps(one(store, KEPT).decisions)


def test_a_prefix_is_enough_where_it_is_unique(store):
    assert one(store, KEPT[:8]).image_id == KEPT
    assert one(store, OTHER[:9]).image_id == OTHER
    with pytest.raises(ValueError, match="2 image ids begin with bbbbbbbb"):
        one(store, "bbbbbbbb")


def test_a_url_leads_to_its_image_however_it_is_spelled(store):
    assert one(store, ROSE).image_id == KEPT
    assert one(store, "HTTP://Garden.test:80/x/../rose.png#top").image_id == KEPT
    assert one(store, "mine:a/b.png").outcome == "dropped by screen: too_small"


def test_a_url_that_never_became_an_image(store):
    found = one(store, BLOCKED)
    assert (found.image_id, found.outcome) == (None, "dropped by extract_links: blocked_domain")
    assert found.sightings[0]["found_in"][0]["offset"] == 79


def test_hostile_text_cannot_steer_the_terminal(store):
    text = render(one(store, KEPT))
    assert "\\x1b[31mred\\u202e.png" in text
    assert all(character.isprintable() or character == "\n" for character in text)


@pytest.mark.parametrize("subject", ["0123456789", "http://nowhere.test/", "abc", "", "\x1b[31m"])
def test_the_unknown_is_refused(store, subject):
    with pytest.raises(ValueError, match=r"is known of|begins with") as error:
        explain(Store(str(store)), subject)
    assert "\x1b" not in str(error.value)


def command(*arguments):
    words = [sys.executable, "-m", "curation.explain", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True)


def test_the_command(store, tmp_path):
    done = command(store, KEPT, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)[0]["image_id"] == KEPT
    failed = command(tmp_path, KEPT)
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: ")
    assert "Traceback" not in failed.stderr


def test_what_came_with_an_imported_image_is_told(store):
    lines = render(one(store, "mine:a/b.png")).splitlines()
    at = lines.index(f"  {ELSEWHERE}")
    assert lines[at + 1 : at + 3] == ["    in mine:a/b.png", "    caption a red\\x1b[31m rose"]


def test_an_imported_file_is_found_by_its_path(tmp_path):
    pictures = tmp_path / "my pictures"
    put(tmp_path / "store", "sightings", [{"image_id": KEPT, "path": "mine:a/b.png"}])
    put(tmp_path / "store", "decisions", [{"stage": "index", "image_id": KEPT, "decision": "keep", "run_id": "r"}])
    (tmp_path / "store" / "sources.json").write_text(json.dumps({"mine": f"file://{pictures}"}))
    (explanation,) = explain(Store(str(tmp_path / "store")), str(pictures / "a" / "b.png"))
    assert explanation.image_id == KEPT
    with pytest.raises(ValueError, match="nothing is known"):
        explain(Store(str(tmp_path / "store")), str(tmp_path / "a" / "b.png"))
