import json
from pathlib import Path

import pytest

from curation.store import Store, locate, open_uri

NAMES = ["a::b.jpg", "c#d.jpg", "50%20.jpg", "ä ö.jpg", "new\nline.jpg", "[1]*?.jpg", "c:.jpg", "~x", "deep/er/a.jpg"]


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def store(tmp_path):
    """A store with one source, "photos", and a shard of its own."""
    (tmp_path / "photos").mkdir()
    shard = tmp_path / "store" / "shards" / "run" / "00000.tar"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(bytes(range(100)))
    (tmp_path / "store" / "sources.json").write_text(json.dumps({"photos": f"file://{tmp_path / 'photos'}"}))
    (tmp_path / "secret").write_bytes(b"secret")
    return Store(str(tmp_path / "store"))


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_no_syntax(store, tmp_path, name):
    file = tmp_path / "photos" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"0123456789")
    for uri in (str(file), f"file://{file}"):
        with open_uri(uri) as opened:
            assert opened.read() == b"0123456789"
    assert store.read_image(f"photos:{name}", 2, 3) == b"234"
    assert store.read_image(f"photos:{name}", 0, -1) == b"0123456789"


def test_a_file_may_lie_elsewhere(tmp_path):
    filesystem, path = locate("memory://bucket/a::b#c.jpg")
    filesystem.pipe_file(path, b"far away")
    with open_uri("memory://bucket/a::b#c.jpg") as file:
        assert file.read() == b"far away"
    with pytest.raises(ValueError, match="nowhere"):
        locate("nowhere://a")


@pytest.mark.parametrize(
    "shard",
    [
        "photos:../secret",
        "photos:a/../../secret",
        "photos:/etc/passwd",
        "photos:",
        "store:../secret",
        "store:sources.json",
        "store:tables/images/part-0.parquet",
        "store:shards/../sources.json",
        "unknown:a.jpg",
        "no source at all",
        "",
    ],
)
def test_a_name_that_leaves_its_root_is_refused(store, shard):
    for resolve in (store.shard_uri, lambda shard: store.read_image(shard, 0, -1)):
        with pytest.raises(ValueError, match="shard"):
            resolve(shard)


def test_a_shard_that_vanished_or_became_short_is_an_error_that_names_it(store, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not there any more.*photos:gone.jpg"):
        store.read_image("photos:gone.jpg", 0, 10)
    assert store.read_image("store:shards/run/00000.tar", 90, 10) == bytes(range(90, 100))
    with pytest.raises(OSError, match=r"no 11 bytes at 90 any more.*store:shards/run/00000.tar"):
        store.read_image("store:shards/run/00000.tar", 90, 11)


def test_shards_taken_by_turns_are_opened_once_and_never_too_many_at_once(store, tmp_path, monkeypatch):
    for number in range(20):
        (tmp_path / "photos" / f"{number}").write_bytes(b"%02d" % number * 10)
    opened = []

    def counted(uri):
        opened.append(Path(uri).name)
        return open_uri(uri)

    monkeypatch.setattr("curation.store.open_uri", counted)
    before = descriptors()
    with store.shard_reader() as read:
        for turn in range(5):
            assert [read(f"photos:{n}", 2 * turn, 2) for n in range(4)] == [b"%02d" % n for n in range(4)]
        assert opened == ["0", "1", "2", "3"]
        for number in range(20):
            assert read(f"photos:{number}", 0, 2) == b"%02d" % number
            assert descriptors() <= before + 8
    assert descriptors() == before
