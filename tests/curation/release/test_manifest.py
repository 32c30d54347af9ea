import filecmp
import hashlib
import json

import pyarrow as pa
import pytest

from curation.release.manifest import CROISSANT, Shard, leaves, parse_manifest, write_release_files
from curation.release.merkle import inclusion_proof, verify_inclusion
from curation.release.reader import ReleaseReader
from tests.curation.release.build import PICTURES, RUNS, SAFETY, build, metadata


def test_two_builds_from_differently_ordered_inputs_are_byte_identical(tmp_path):
    build(tmp_path / "a")
    build(tmp_path / "b", dict(reversed(PICTURES.items())))
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "b").iterdir())
    assert filecmp.cmpfiles(tmp_path / "a", tmp_path / "b", names, shallow=False) == (names, [], [])


def test_no_place_of_the_build_is_in_the_release(tmp_path):
    build(tmp_path / "secret-place")
    for path in (tmp_path / "secret-place").iterdir():
        assert b"secret-place" not in path.read_bytes()


def test_the_manifest_is_written_last(tmp_path, monkeypatch):
    from fsspec.implementations.local import LocalFileSystem

    moved, move = [], LocalFileSystem.mv
    monkeypatch.setattr(LocalFileSystem, "mv", lambda self, a, b: (moved.append(b), move(self, a, b)))
    build(tmp_path / "release")
    assert [name.rpartition("/")[2] for name in moved][-1] == "manifest.json"
    assert len(moved) == 4


@pytest.mark.parametrize("name", ["release", "re::lease"])
def test_the_reader_gives_back_every_image(tmp_path, name):
    build(tmp_path / name)
    reader = ReleaseReader(str(tmp_path / name))
    assert {image.image_id: image.data for image in reader} == PICTURES
    assert [image.image_id for image in reader] == reader.index["image_id"].to_pylist()
    some = list(PICTURES)[3]
    assert reader.read(some) == (some, "png", PICTURES[some], metadata(some))
    with pytest.raises(ValueError, match="no image"):
        reader.read("0" * 32)


def test_an_image_is_proved_by_the_manifest_and_its_row_alone(tmp_path):
    manifest = build(tmp_path / "release")
    rows = list(leaves(ReleaseReader(str(tmp_path / "release")).index))
    proof = inclusion_proof(rows, 5)
    assert len(proof) <= 5
    root = bytes.fromhex(manifest.merkle_root)
    assert verify_inclusion(rows[5], 5, manifest.images, proof, root)
    assert not verify_inclusion(rows[6], 5, manifest.images, proof, root)
    assert hashlib.sha256(PICTURES[json.loads(rows[5])["image_id"]]).hexdigest() in rows[5].decode()


def test_croissant_names_every_shard_and_column(tmp_path):
    manifest = build(tmp_path / "release")
    document = json.loads((tmp_path / "release" / CROISSANT).read_bytes())
    assert {f["@id"]: f["sha256"] for f in document["distribution"]}.items() >= {
        s.name: s.sha256 for s in manifest.shards
    }.items()
    fields = {f["source"]["extract"]["column"] for f in document["recordSet"][0]["field"]}
    assert fields == set(ReleaseReader(str(tmp_path / "release")).index.column_names)


def test_the_card_has_the_funnel_and_says_what_nobody_answered(tmp_path):
    build(tmp_path / "release")
    text = (tmp_path / "release" / "README.md").read_text()
    assert "| screen | 25 | 24 | too_small 1 |" in text
    assert "24 images" in text
    assert "*unanswered*" in text


@pytest.mark.parametrize(
    "data", [b"", b"null", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"images": ' + b"9" * 5000 + b"}"]
)
def test_a_damaged_manifest_is_a_value_error(tmp_path, data):
    (tmp_path / "manifest.json").write_bytes(data)
    with pytest.raises(ValueError, match=r"manifest\.json: "):
        _ = ReleaseReader(str(tmp_path)).manifest


def test_a_manifest_cut_anywhere_is_a_value_error(tmp_path):
    build(tmp_path / "r")
    whole = (tmp_path / "r/manifest.json").read_bytes()
    for length in range(len(whole) - 1):  # the last byte is a newline, without which it is as whole
        with pytest.raises(ValueError):
            parse_manifest(whole[:length])


def test_an_index_that_is_not_what_was_written_is_refused(tmp_path):
    build(tmp_path / "release")
    reader = ReleaseReader(str(tmp_path / "release"))
    wrong = [Shard(**(shard.model_dump() | {"images": 1})) for shard in reader.manifest.shards]
    with pytest.raises(ValueError, match="publish again"):
        write_release_files(
            str(tmp_path / "release"), pa.table(reader.index), wrong, reader.manifest.num_shards, RUNS, {}, {}, SAFETY
        )
