import json
import os

import fsspec
import pytest

from curation import read_ahead
from curation.read_ahead import ReadAhead
from curation.store import Store

PLACES = [(f"photos:{number % 3}", 10 * number, 7 + number) for number in range(9)]
CONTENT = {str(number): bytes(range(number, number + 120)) for number in range(3)}


@pytest.fixture(params=["folder", "object store"])
def store(request, tmp_path):
    """A store whose source of three shards lies in a folder, or where every request takes its time."""
    place = f"file://{tmp_path / 'photos'}" if request.param == "folder" else f"memory://{tmp_path.name}"
    with fsspec.open(f"{place}/.keep", "wb", auto_mkdir=True):
        pass
    for name, data in CONTENT.items():
        with fsspec.open(f"{place}/{name}", "wb") as file:
            file.write(data)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "sources.json").write_text(json.dumps({"photos": place}))
    return Store(str(tmp_path / "store"))


@pytest.fixture(params=[1, 2, 4, 64])
def at_once(request, monkeypatch):
    monkeypatch.setattr(read_ahead, "_IMAGES", request.param)
    return request.param


def expected(shard, offset, size):
    return CONTENT[shard.partition(":")[2]][offset : offset + size]


def test_it_reads_what_the_reader_reads(store, at_once):
    with store.shard_reader() as read:
        ahead = ReadAhead(store, read, PLACES)
        for place in PLACES:
            assert ahead(*place) == expected(*place) == read(*place)
        assert ahead(*PLACES[4]) == expected(*PLACES[4])  # what nobody announced


def test_an_image_that_cannot_be_had_is_the_readers_error_at_its_turn(store, at_once):
    places = [PLACES[0], ("photos:gone", 0, 5), ("photos:1", 100, 50), ("store:../secret", 0, 5), PLACES[1], PLACES[2]]
    with store.shard_reader() as read:
        ahead = ReadAhead(store, read, places)
        assert ahead(*places[0]) == expected(*places[0])
        with pytest.raises(FileNotFoundError, match=r"is not there any more.*photos:gone"):
            ahead(*places[1])
        with pytest.raises(OSError, match=r"no 50 bytes at 100 any more"):
            ahead(*places[2])
        with pytest.raises(ValueError, match="points outside its root"):
            ahead(*places[3])
        assert [ahead(*place) for place in places[4:]] == [expected(*place) for place in places[4:]]


@pytest.mark.parametrize("store", ["object store"], indirect=True)
def test_an_object_store_is_asked_for_many_at_once_and_only_once(store, at_once, monkeypatch):
    asked = []
    kind = fsspec.get_filesystem_class("memory")
    fetch = kind.cat_ranges

    def recorded(self, paths, starts, ends, **options):
        asked.append(len(paths))
        return fetch(self, paths, starts, ends, **options)

    def never(*place):
        raise AssertionError(f"{place} was read by itself")

    monkeypatch.setattr(kind, "cat_ranges", recorded)
    ahead = ReadAhead(store, never, PLACES)
    assert [ahead(*place) for place in PLACES] == [expected(*place) for place in PLACES]
    assert sum(asked) == len(PLACES)
    assert max(asked) == min(at_once, len(PLACES))


@pytest.mark.parametrize("store", ["folder"], indirect=True)
def test_the_kernel_knows_the_next_part_before_the_present_one_is_read(store, at_once, monkeypatch):
    told = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *what: told.append(what[1:3]))
    with store.shard_reader() as read:
        ahead = ReadAhead(store, read, PLACES)
        for done, place in enumerate(PLACES):
            ahead(*place)
            coming = (done // at_once + 2) * at_once
            assert sorted(told) == sorted(place[1:] for place in PLACES[:coming])


@pytest.mark.parametrize("store", ["folder"], indirect=True)
def test_large_images_make_small_parts(store, monkeypatch):
    monkeypatch.setattr(read_ahead, "_BYTES", 20)
    told = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *what: told.append(what))
    with store.shard_reader() as read:
        ahead = ReadAhead(store, read, PLACES)
        assert len(told) == 3  # 7 + 8 + 9 bytes
        assert [ahead(*place) for place in PLACES] == [expected(*place) for place in PLACES]
    assert len(told) == len(PLACES)
