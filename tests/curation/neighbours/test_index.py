"""Index shards: what is read is what was written, tile by tile."""

import numpy as np
import pyarrow as pa
import pytest

from curation.neighbours.index import IndexKey, Reader, Tile, blocks, read_ids, write_tiles


def tile(seed, rows, dim=8, lists=2):
    rng = np.random.default_rng(seed)
    ids = pa.array([f"{seed:04x}{i:04x}" for i in range(rows)], pa.string())
    vectors = rng.standard_normal((rows, dim)).astype(np.float16)
    return Tile(ids, vectors, np.sort(rng.integers(0, 99, (rows, lists)), axis=1).astype(np.int32))


def same(a, b):
    return a.ids.equals(b.ids) and np.array_equal(a.vectors, b.vectors) and np.array_equal(a.lists, b.lists)


@pytest.fixture
def shard(tmp_path):
    tiles = [tile(0, 5), tile(1, 1), tile(2, 7)]
    with (tmp_path / "shard-0.arrow").open("wb") as file:
        write_tiles(file, tiles)
    return str(tmp_path / "shard-0.arrow"), tiles


def test_tiles_come_back(shard):
    uri, tiles = shard
    reader = Reader()
    for number in (2, 0, 1, 0):
        assert same(reader.read([(uri, number)]), tiles[number])
    assert same(reader.read([(uri, 1), (uri, 0)]), Tile.concatenate([tiles[1], tiles[0]]))
    assert [len(ids) for ids in read_ids(uri)] == [5, 1, 7]
    assert next(read_ids(uri)).equals(tiles[0].ids)


def test_a_shard_that_is_gone_or_cut_is_named(shard, tmp_path):
    uri, _ = shard
    with pytest.raises(OSError, match=r"gone\.arrow: tile 0"):
        Reader().read([(str(tmp_path / "gone.arrow"), 0)])
    data = open(uri, "rb").read()  # noqa: PTH123, SIM115
    (tmp_path / "cut.arrow").write_bytes(data[: len(data) // 2])
    with pytest.raises(OSError, match=r"cut\.arrow"):
        Reader().read([(str(tmp_path / "cut.arrow"), 0)])


def test_small_tiles_are_packed():
    places = [((f"s{i}", i), rows) for i, rows in enumerate([3, 3, 3, 12, 1, 9, 1])]
    packed = blocks(places, rows=10)
    assert [[number for _, number in block] for block in packed] == [[0, 1, 2], [3], [4, 5], [6]]
    assert [place for block in packed for place in block] == [place for place, _ in places]


def test_what_must_not_be_compared_has_another_name():
    keys = [IndexKey("m"), IndexKey("n"), IndexKey("m", "c"), IndexKey("m", "c", 4), IndexKey("m", "d", 4)]
    assert len({key.digest for key in keys}) == len(keys)
