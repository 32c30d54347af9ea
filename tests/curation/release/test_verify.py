import hashlib
import itertools
import json
import random
import re
import shutil
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.release import merkle
from curation.release.canonical import canonical_json
from curation.release.manifest import index_bytes, leaves, parse_manifest
from curation.release.reader import ReleaseReader
from curation.release.verify import verify
from tests.curation.release import build as build_module
from tests.curation.release.build import PICTURES, REGIONS, build, identifier, picture


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound") / "release"
    build(folder)
    return folder


@pytest.fixture
def release(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "release")


def first(release):
    return next(verify(str(release)))


def rows(release):
    return pq.read_table(release / "index.parquet").to_pylist()


def restate(release, **changes):
    """Edit the manifest, as somebody would who also mends its digest and the digests of the shards and files."""
    values = json.loads((release / "manifest.json").read_bytes()) | changes
    for file in values["shards"] + values["files"]:
        data = (release / file["name"]).read_bytes()
        file |= {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    values["digest"] = hashlib.sha256(canonical_json({k: v for k, v in values.items() if k != "digest"})).hexdigest()
    (release / "manifest.json").write_bytes(canonical_json(values) + b"\n")


def test_a_sound_release_has_several_shards_and_no_problem(sound):
    assert len(ReleaseReader(str(sound)).manifest.shards) > 2
    assert list(verify(str(sound), workers=2)) == []


def test_every_flipped_bit_is_found_in_its_shard_and_member(release):
    index = rows(release)
    shard = release / index[-1]["shard"]
    data = shard.read_bytes()
    mine = [row for row in index if row["shard"] == shard.name]
    draw = random.Random(0)
    for position in draw.sample(range(len(data) - 1024), 150):
        flipped = bytearray(data)
        flipped[position] ^= 1 << draw.randrange(8)
        shard.write_bytes(flipped)
        problem = first(release)
        owner = [row for row in mine if row["offset_bytes"] - 512 <= position][-1]["image_id"]
        assert problem.shard == shard.name
        assert problem.member.partition(".")[0] == owner


def test_a_flipped_bit_in_the_end_mark(release):
    shard = next(release.glob("*.tar"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert first(release).shard == shard.name


@pytest.mark.parametrize("lost", [1, 512, 1024, 1025, 1500, 4000])
def test_a_cut_shard(release, lost):
    shard = release / "00001.tar"
    data = shard.read_bytes()[:-lost]
    shard.write_bytes(data)
    problem = first(release)
    assert problem.shard == "00001.tar"
    if lost > 1024:
        at = [r for r in rows(release) if r["shard"] == "00001.tar" and r["offset_bytes"] - 512 <= len(data)][-1]
        assert problem.member.partition(".")[0] == at["image_id"]


def equally_long(release):
    """Two images of one shard with the same size, in order."""
    every = itertools.combinations(rows(release), 2)
    return next((a, b) for a, b in every if (a["shard"], a["size_bytes"]) == (b["shard"], b["size_bytes"]))


def test_swapped_members(release):
    a, b = equally_long(release)
    shard = release / a["shard"]
    data = bytearray(shard.read_bytes())
    one, other = (slice(r["offset_bytes"] - 512, r["offset_bytes"] + r["size_bytes"]) for r in (a, b))
    data[one], data[other] = data[other], data[one]
    shard.write_bytes(data)
    restate(release)
    problem = first(release)
    assert (problem.shard, problem.member) == (a["shard"], b["member"])
    assert a["member"] in problem.message


def test_swapped_contents_under_unswapped_names(release):
    a, b = equally_long(release)
    shard = release / a["shard"]
    data = bytearray(shard.read_bytes())
    one, other = (slice(r["offset_bytes"], r["offset_bytes"] + r["size_bytes"]) for r in (a, b))
    data[one], data[other] = data[other], data[one]
    shard.write_bytes(data)
    problem = first(release)
    assert (problem.shard, problem.member) == (a["shard"], a["member"])
    assert b["image_id"] in problem.message


@pytest.mark.parametrize("lost", [0, 5, 23])
def test_a_row_too_few(release, lost):
    table = pq.read_table(release / "index.parquet")
    row = table.to_pylist()[lost]
    (release / "index.parquet").write_bytes(index_bytes(table.take([n for n in range(len(table)) if n != lost])))
    restate(release)
    problems = list(verify(str(release)))
    assert "23 rows" in str(problems[0])
    assert any((p.shard, p.member) == (row["shard"], row["member"]) for p in problems)


def test_a_row_too_many(release):
    table = pq.read_table(release / "index.parquet")
    (release / "index.parquet").write_bytes(index_bytes(table.take([*range(6), 5, *range(6, len(table))])))
    restate(release)
    row, problems = table.to_pylist()[5], list(verify(str(release)))
    assert "25 rows" in str(problems[0])
    assert any((p.shard, p.member) == (row["shard"], row["member"]) and "twice" in p.message for p in problems)


def test_an_image_that_is_in_the_index_only(release):
    table = pq.read_table(release / "index.parquet")
    last = table.to_pylist()[-1]
    invented = last | {"image_id": "f" * 32, "member": "f" * 32 + ".png", "offset_bytes": last["offset_bytes"] + 10**6}
    more = table.from_pylist([*table.to_pylist(), invented], schema=table.schema)
    (release / "index.parquet").write_bytes(index_bytes(more))
    restate(release, images=25)
    assert any((p.shard, p.member) == (last["shard"], "f" * 32 + ".png") for p in verify(str(release)))


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m | {"images": 25},
        lambda m: m | {"recipe": {"seed": 8}},
        lambda m: m | {"merkle_root": "0" * 64},
        lambda m: m | {"format": "other"},
        lambda m: m | {"surprise": 1},
        lambda m: m["runs"]["screen"].update(kept=25) or m,
        lambda m: m["shards"].pop() and m,
    ],
)
def test_an_edited_manifest(release, edit):
    values = edit(json.loads((release / "manifest.json").read_bytes()))
    (release / "manifest.json").write_bytes(canonical_json(values) + b"\n")
    assert first(release).check == "manifest"


def test_a_manifest_edited_with_its_digest_still_disagrees_with_the_images(release):
    restate(release, merkle_root="0" * 64)
    assert first(release).check == "merkle"


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_a_manifest_that_is_none(release, data):
    (release / "manifest.json").write_bytes(data)
    assert first(release).check == "manifest"


def test_missing_and_surplus_files(release):
    (release / "00001.tar").rename(release / "00077.tar")
    (release / "README.md").unlink()
    found = [str(problem) for problem in verify(str(release))]
    assert any("00077.tar" in f for f in found)
    assert any("README.md" in f for f in found)
    assert any(f == "00001.tar: is missing" for f in found)


def test_bytes_that_are_no_image(tmp_path):
    data = b"not a picture"
    image_id = hashlib.sha256(data).hexdigest()[:32]
    build(tmp_path / "release", PICTURES | {image_id: data})
    problem = first(tmp_path / "release")
    assert problem.member == f"{image_id}.png"
    assert "decode" in problem.message


def test_bytes_under_another_id(tmp_path):
    build(tmp_path / "release", PICTURES | {"e" * 32: picture(99)})
    problem = first(tmp_path / "release")
    assert problem.member == "e" * 32 + ".png"
    assert "not its id" in problem.message


@pytest.mark.parametrize(("version", "remedy"), [(99, "use a newer openlvd"), (1, "publish again")])
def test_another_format_is_not_called_sound(release, version, remedy):
    values = json.loads((release / "manifest.json").read_bytes()) | {"format_version": version}
    with pytest.raises(ValueError, match=remedy):
        parse_manifest(json.dumps(values).encode())


def republish(folder, image_id=None, **replaced):
    """Build a release in which one image is another, as somebody would who can write every file of it."""
    pictures = PICTURES | ({image_id: replaced.pop("data")} if image_id else {})
    build(folder, pictures, **replaced)
    return list(verify(str(folder)))


BLURRED = next(iter(REGIONS))
CURATED = next(data for data in map(picture, range(24)) if identifier(data) == BLURRED)


def test_a_blurred_image_put_back_as_it_was_curated(tmp_path):
    (problem,) = republish(tmp_path / "r", BLURRED, data=CURATED)
    assert (problem.check, problem.member) == ("image", f"{BLURRED}.png")
    assert "marked as blurred" in problem.message


def test_other_bytes_under_the_id_of_a_blurred_image(release):
    row = next(r for r in rows(release) if r["image_id"] == BLURRED)
    shard = release / row["shard"]
    data = bytearray(shard.read_bytes())
    data[row["offset_bytes"] : row["offset_bytes"] + row["size_bytes"]] = picture(99)[: row["size_bytes"]].ljust(
        row["size_bytes"], b"\0"
    )
    shard.write_bytes(data)
    restate(release)
    (problem,) = verify(str(release))
    assert problem.member == row["member"]
    assert "SHA-256 is not the index's" in problem.message


def test_a_changed_image_cannot_be_passed_off_as_an_unblurred_one(release):
    table = pq.read_table(release / "index.parquet")
    denied = [row | {"blurred": 0} for row in table.to_pylist()]
    index = table.from_pylist(denied, schema=table.schema)
    (release / "index.parquet").write_bytes(index_bytes(index))
    safety = json.loads((release / "manifest.json").read_bytes())["safety"] | {"blurred": None}
    restate(release, safety=safety, merkle_root=merkle.root(leaves(index)).hex())
    changed = [row for row in table.to_pylist() if row["blurred"]]
    problems = list(verify(str(release)))
    assert len({row["shard"] for row in changed}) == len(changed), "one problem is named a shard"
    assert {p.member for p in problems} == {row["member"] for row in changed}
    assert all("not its id" in p.message for p in problems)


@pytest.mark.parametrize("blurred", [None, {"labels": ["face"], "images": 2, "regions": 2}])
def test_a_manifest_that_counts_other_blurred_regions(release, blurred):
    restate(release, safety=json.loads((release / "manifest.json").read_bytes())["safety"] | {"blurred": blurred})
    problem = first(release)
    assert problem.check == "index"
    assert "3 blurred regions in 2 images" in problem.message


@pytest.mark.parametrize("boxes", [[], [[0, 0, 9, 4]] * 3, "12", None])
def test_metadata_that_lists_other_blurred_regions(tmp_path, monkeypatch, boxes):
    image_id = list(REGIONS)[1]
    monkeypatch.setattr(build_module, "metadata", lambda i: {"blurred": boxes if i == image_id else REGIONS.get(i, [])})
    (problem,) = republish(tmp_path / "r")
    assert problem.member == f"{image_id}.json"
    assert "2 blurred regions" in problem.message


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "curation.release", *map(str, arguments)], capture_output=True, text=True
    )


def test_exit_codes(release, tmp_path):
    good = command("verify", release)
    assert (good.returncode, good.stderr) == (0, "")
    assert re.match(r"ok: 24 images in \d+ shards, release [0-9a-f]{64}\n", good.stdout)
    shard = release / "00001.tar"
    shard.write_bytes(shard.read_bytes()[:700])
    bad = command("verify", release)
    assert bad.returncode == 1
    assert "00001.tar: " in bad.stdout
    none = command("verify", tmp_path / "nowhere")
    assert none.returncode == 2
    assert none.stderr.startswith("error: ")
    assert "Traceback" not in none.stderr


def test_an_index_row_with_a_hole(release):
    table = pq.read_table(release / "index.parquet")
    holed = [row | {"member": None} if n == 3 else row for n, row in enumerate(table.to_pylist())]
    pq.write_table(pa.Table.from_pylist(holed), release / "index.parquet")
    restate(release)
    assert first(release).check == "index"
