import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from curation.pocket_web import Truth, build
from curation.pocket_web.truth import KEEP
from curation.schema import Reason

STAGES = ("extract_links", "download", "index", "screen", "embed", "dedup", "cluster", "retrieve", "publish")
KINDS = {
    "exact_copy", "reencoded", "edited_crop", "edited_mirror", "edited_overlay", "edited_grey", "chain_link",
    "evaluation_exact", "evaluation_mirror", "face", "corrupt", "truncated", "icon", "bomb", "svg", "html_as_image",
    "blocked_domain", "page_opted_out", "header_opted_out", "robots_disallowed", "robots_unreachable",
    "redirect_private", "redirect_loop", "good_redirect", "endless_body", "short_body", "not_found", "data_uri",
    "latin_page", "cut_in_body", "damaged_record", "malformed_url", "blank", "animation", "banner", "misnamed",
    "oriented", "cmyk", "grey16", "faces",
}  # fmt: skip


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def id_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


def test_it_stays_small(web):
    assert sum(path.stat().st_size for path in web.rglob("*")) < 30e6


def test_a_second_build_touches_nothing(web):
    before = {path: path.stat().st_mtime_ns for path in web.rglob("*")}
    assert build(web) == Truth.read(web / "truth.json")
    assert {path: path.stat().st_mtime_ns for path in web.rglob("*")} == before


def test_an_older_web_and_a_killed_build_are_replaced_by_the_same_bytes(web, tmp_path):
    folder = tmp_path / "elsewhere"
    (folder / "site").mkdir(parents=True)
    (folder / "site" / "stale.jpg").write_bytes(b"old")
    (folder / "pocket_web.json").write_text(json.dumps({"version": 0, "seed": 0}))
    (tmp_path / ".elsewhere.unfinished").mkdir()
    (tmp_path / ".elsewhere.unfinished" / "half").write_bytes(b"half")
    build(folder)
    assert tree(folder) == tree(web)
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]


def test_somebody_elses_folder_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="something else"):
        build(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_ids_are_those_of_the_files(web, truth):
    for tile in truth.tiles:
        assert id_of(web / tile.path) == tile.image_id
    by_url = {url: tile.image_id for tile in truth.tiles for url in tile.urls}
    for case in truth.cases:
        if case.of is not None and case.of.startswith("heldout/"):
            assert id_of(web / case.of) == case.of_image_id
        elif case.of in by_url:
            assert by_url[case.of] == case.of_image_id


def test_held_out_and_query_folders_hold_what_the_truth_says(web, truth):
    for split in ("heldout/train", "heldout/test", "queries"):
        files = {(path.parent.name, id_of(path)) for path in (web / split).rglob("*.jpg")}
        assert files == {(tile.label, tile.image_id) for tile in truth.tiles if tile.split == split}
    assert {tile.label for tile in truth.tiles if tile.split == "queries"} == set(truth.concepts)
    assert set(truth.concepts) < set(truth.classes)


def test_only_leaks_of_kept_back_tiles_are_served(web, truth):
    assert max(Counter(tile.image_id for tile in truth.tiles).values()) == 1
    served = {id_of(path) for path in (web / "site").rglob("*.*") if path.is_file()}
    kept_back = {tile.image_id for tile in truth.tiles if not tile.urls}
    leaks = {case.image_id for case in truth.cases if case.kind == "evaluation_exact"}
    assert served & kept_back == leaks
    assert len(leaks) == 6


def test_copies_are_what_they_are_called(truth):
    for case in truth.cases:
        same = case.kind in ("exact_copy", "evaluation_exact")
        if case.of is not None:
            assert (case.image_id == case.of_image_id) == same, case
    originals = Counter(case.of for case in truth.cases if case.kind.startswith(("edited", "reencoded")))
    assert max(originals.values()) == 1


def test_cases_speak_the_language_of_the_schema(truth):
    assert set(truth.totals["cases"]) >= KINDS
    for case in truth.cases:
        assert case.stage in STAGES
        assert {case.expected, *case.also} <= {KEEP, *(reason.value for reason in Reason)}
    hosts = [host for group in truth.hosts.values() for host in group]
    assert len(hosts) == len(set(hosts))
    assert all(host.endswith(".test") for host in hosts)


def test_every_case_with_a_url_is_on_a_page(truth):
    lost = [case for case in truth.cases if case.url.startswith("http") and case.page is None]
    assert lost == []


def test_truth_survives_its_file(truth, tmp_path):
    truth.write(tmp_path / "truth.json")
    assert Truth.read(tmp_path / "truth.json") == truth


def test_the_command_builds_another_web_from_another_seed(truth, tmp_path):
    command = [sys.executable, "-m", "curation.pocket_web", "build", tmp_path / "web", "--seed", "1"]
    built = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "exact_copy 20" in built.stdout
    other = Truth.read(tmp_path / "web" / "truth.json")
    held_out = [{tile.image_id for tile in t.tiles if tile.split == "heldout/test"} for t in (truth, other)]
    assert held_out[0] != held_out[1]
    assert truth.totals["cases"] == other.totals["cases"]


def test_the_command_refuses_in_one_sentence(tmp_path):
    (tmp_path / "x").touch()
    command = [sys.executable, "-m", "curation.pocket_web", "build", tmp_path]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")
    assert len(refused.stderr.splitlines()) == 1
