import itertools
import shutil

import pyarrow as pa
import pytest

from curation.fetch import stream as stream_module
from curation.fetch.stream import Asking

STREAM = pa.schema([("lane", pa.int64()), *((name, pa.string()) for name in ("host", "url", "status", "body"))])
A, B, C = (f"http://{name}.test" for name in "abc")
ROWS = [
    (0, A, None, "rules", "User-agent: *\nDisallow: /good?1"),
    *((0, A, f"{A}/good?{n}", None, None) for n in range(7)),
    (0, B, f"{B}/good?1", None, None),  # was not asked: the rules of the host before it are not its own
    (1, C, None, "unreachable", "status 503"),
    *((1, C, f"{C}/good?{n}", None, None) for n in range(2)),
]
SHARDS = {"0-000000-0000": 3, "0-000000-0001": 3, "0-000000-0002": 2, "0-000001-0000": 2}


def batches(rows, schema, size):
    made = [dict(zip(schema.names, row, strict=True)) for row in rows]
    for at in itertools.takewhile(lambda at: at < len(made), itertools.count(0, size)):
        yield pa.RecordBatch.from_pylist(made[at : at + size], schema=schema)


def asking(folder, options, round_number=0, urls_per_shard=3):
    return Asking(str(folder), round_number, urls_per_shard, options, lambda _: None, fail_closed=True)


def fetched(folder, options, size=4):
    found = asking(folder, options).urls(batches(ROWS, STREAM, size))
    return [row for batch in found for row in batch.to_pylist()]


@pytest.mark.parametrize("size", [1, 5, 100])
def test_lanes_are_cut_into_shards_however_the_stream_is(tmp_path, options, size):
    rows = fetched(tmp_path, options, size)
    assert sorted(row["url"] for row in rows) == sorted(row[2] for row in ROWS if row[2])
    assert {path.stem for path in tmp_path.glob("*.tar")} == set(SHARDS)
    assert {path.stem: pa.parquet.read_metadata(path).num_rows for path in tmp_path.glob("*.parquet")} == SHARDS
    refused = {row["url"]: row["reason"] for row in rows if row["reason"]}
    assert refused == {
        f"{A}/good?1": "robots_disallowed",
        f"{C}/good?0": "robots_unreachable",
        f"{C}/good?1": "robots_unreachable",
    }


def test_what_is_refused_is_not_asked_for(tmp_path, options, server):
    fetched(tmp_path, options)
    assert sorted((host, path) for host, path, _ in server.requests) == sorted(
        [("a.test", f"/good?{n}") for n in (0, 2, 3, 4, 5, 6)] + [("b.test", "/good?1")]
    )


def test_a_second_run_asks_for_what_had_not_landed(tmp_path, options, server):
    whole = fetched(tmp_path / "whole", options)
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    # killed between a shard's tar and its outcomes, in the middle of another, and before a third
    (tmp_path / "killed" / "0-000000-0001.parquet").unlink()
    (tmp_path / "killed" / "0-000000-0002.parquet").rename(tmp_path / "killed" / ".0-000000-0002.parquet.77.part")
    (tmp_path / "killed" / "0-000000-0002.tar").unlink()
    server.requests.clear()
    assert fetched(tmp_path / "killed", options) == whole
    assert sorted((host, path) for host, path, _ in server.requests) == sorted(
        [("a.test", f"/good?{n}") for n in (3, 4, 5, 6)] + [("b.test", "/good?1")]
    )
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "killed" / path.name).read_bytes() == path.read_bytes()


def test_long_rules_make_short_shards(tmp_path, options, monkeypatch):
    monkeypatch.setattr(stream_module, "_RULES_BYTES", 20)
    fetched(tmp_path, options)
    assert {path.stem for path in tmp_path.glob("*.tar")} == {
        *(f"0-000000-{part:04d}" for part in range(8)),  # seven of a host with rules, one of a host without
        "0-000001-0000",
    }


def test_hosts_are_asked_once_and_land_in_pieces(tmp_path, options, server):
    server.robots = (200, b"User-agent: *\nDisallow: /x")
    schema = pa.schema([("bucket", pa.int64()), ("host", pa.string())])
    hosts = [(0, A), (0, B), (3, C)]
    first, second = (
        [row for batch in asking(tmp_path, options).hosts(batches(hosts, schema, 2)) for row in batch.to_pylist()]
        for _ in range(2)
    )
    assert first == second
    assert [(row["host"], row["status"]) for row in first] == [(A, "rules"), (B, "rules"), (C, "rules")]
    assert sorted(host for host, _, _ in server.requests) == ["a.test", "b.test", "c.test"]
    assert {path.name for path in tmp_path.iterdir()} == {"robots-0-000000.parquet", "robots-0-000003.parquet"}
