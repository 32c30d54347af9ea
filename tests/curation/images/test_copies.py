import tarfile

import pytest

from curation.images.copies import Copies
from curation.store import Store

IMAGES = [b"\xff\xd8\xff" + bytes([number]) * 900 for number in range(7)]


def copied(root, shard_bytes=2000, location="photos:a.parquet", images=IMAGES):
    with Copies(str(root), "run", location, shard_bytes) as copies:
        return [copies.add(data) for data in images]


def shards(root):
    return {path.name: path.read_bytes() for path in (root / "shards" / "run").glob("*")}


def test_images_are_read_back_from_where_they_were_put(tmp_path):
    places = copied(tmp_path)
    store = Store(str(tmp_path))
    read = [store.read_image(shard, offset, len(data)) for (shard, offset), data in zip(places, IMAGES, strict=True)]
    assert read == IMAGES
    assert [shard for shard, _ in places] == sorted(shard for shard, _ in places)
    members = []
    for name in sorted(shards(tmp_path)):
        with tarfile.open(tmp_path / "shards" / "run" / name) as tar:
            members += [(member.name, tar.extractfile(member).read()) for member in tar]
    assert [data for _, data in members] == IMAGES
    assert len(shards(tmp_path)) == 4


def test_a_repetition_gives_the_same_bytes_and_another_file_other_names(tmp_path):
    assert copied(tmp_path / "a") == copied(tmp_path / "b")
    once = shards(tmp_path / "a")
    (tmp_path / "b" / "shards" / "run" / f".{min(once)}.ffff.part").write_bytes(b"of an attempt that was killed")
    copied(tmp_path / "b")
    again = shards(tmp_path / "b")
    assert {name: data for name, data in again.items() if not name.endswith(".part")} == once
    copied(tmp_path / "a", location="photos:b.parquet")
    assert shards(tmp_path / "a").items() > once.items()


def test_an_error_leaves_whole_shards_only(tmp_path):
    with pytest.raises(AttributeError), Copies(str(tmp_path), "run", "photos:a.parquet", 2000) as copies:
        list(map(copies.add, [*IMAGES[:3], None]))
    assert len(shards(tmp_path)) == 1
    assert shards(tmp_path).items() < {**shards(tmp_path), **_whole(tmp_path / "whole")}.items()


def _whole(root):
    copied(root)
    return shards(root)


def test_no_images_no_shard(tmp_path):
    copied(tmp_path, images=[])
    assert not (tmp_path / "shards").exists()
