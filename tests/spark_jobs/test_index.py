"""What lies in folders, tars and Parquet, and what img2dataset wrote, through the stage itself."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf import load
from curation import schema
from curation.images.ids import image_id
from curation.schema import Reason
from spark_jobs.config import CurationConfig
from spark_jobs.index import STAGE, _chunks
from spark_jobs.sources import fingerprint, list_files
from spark_jobs.stage import Context
from spark_jobs.tables import RunKey, Tables
from tests.curation.images.importing import tar_of
from tests.spark_jobs.equality import assert_same_tables

pytestmark = pytest.mark.spark

NAMES = ["a::b.jpg", "c#d.jpg", "50%20.jpg", "ä ö.jpg", "new\nline.jpg", "[1]*?.jpg", "~x.jpg"]


def picture(number):
    return b"\xff\xd8\xff picture %d" % number + bytes(number % 700)


def build(root):
    """Two sources with one of everything; returns the bytes of every image by the path it must be met at."""
    expected = {}

    def put(source, name, data):
        path = root / source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    for number, name in enumerate(NAMES):
        put("loose", name, picture(number))
        expected[f"loose:{name}"] = picture(number)
    put("loose", "deep/er/copy.jpg", picture(0))
    expected["loose:deep/er/copy.jpg"] = picture(0)
    put("loose", "deep/er/copy.json", b'{"url": "http://a.test/copy.jpg"}')
    put("loose", "notes.txt", b"by itself")
    put("loose", "zero.jpg", b"")
    put("loose", ".hidden.jpg", b"x")
    for number in range(300):
        put("many", f"{number:03d}.png", picture(1000 + number))
        expected[f"many:{number:03d}.png"] = picture(1000 + number)
    members = {f"{number:04d}.jpg": picture(number) for number in range(100, 120)}
    put("loose", "shard.tar", tar_of(members))
    expected |= {f"loose:shard.tar#{name}": data for name, data in members.items()}
    cut = tar_of(members | {"0200.jpg": picture(200) * 100})[:-9000]
    put("many", "cut.tar", cut)
    expected |= {f"many:cut.tar#{name}": data for name, data in members.items()}
    images = [picture(number) for number in range(300, 340)]
    (root / "many" / "sub").mkdir()
    pq.write_table(
        pa.table({"image": [{"bytes": data, "path": None} for data in images]}), root / "many/sub/hf.parquet"
    )
    expected |= {f"many:sub/hf.parquet#image/{row}": data for row, data in enumerate(images)}
    (root / "loose" / "circle").symlink_to("..")
    (root / "loose" / "dangling.jpg").symlink_to("nowhere")
    (root / "loose" / "itself.tar").symlink_to("itself.tar")
    os.mkfifo(root / "loose" / "pipe.jpg")
    put("elsewhere", "linked.png", picture(500))
    (root / "many" / "linked.png").symlink_to(root / "elsewhere" / "linked.png")
    expected["many:linked.png"] = picture(500)
    return expected


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    return root, build(root)


def config_of(out, root, *overrides):
    named = [f"sources.images.{name}={root / name}" for name in ("loose", "many")]
    places = [f"store={out / 'store'}", f"release={out / 'release'}"]
    return load(CurationConfig, "conf/curation/own.yaml", [*places, *named, *overrides])


def index(spark, config):
    """The stage by itself, in the frame's steps: (store, run as recorded)."""
    store, key = Tables(config.store), RunKey("index", "0123456789abcdef", {}, {})
    store.write_sources(config.sources.images)
    outcome = STAGE.run(Context(spark, store, config, key))
    store.append_decisions(outcome.decisions, key)
    store.finish(key, outcome.rows_in, outcome.metrics, STAGE.writes(config))
    return store, store.runs()["index"]


@pytest.fixture(scope="module")
def indexed(spark, sources, tmp_path_factory):
    return index(spark, config_of(tmp_path_factory.mktemp("indexed"), sources[0]))


def test_every_image_is_one_read_away(sources, indexed):
    expected, (store, _) = sources[1], indexed
    places = {row["image_id"]: row for row in store.table("images").to_pylist()}
    assert set(places) == {image_id(data) for data in expected.values()}
    for digest, row in places.items():
        assert image_id(store.read_image(row["shard"], row["offset_bytes"], row["size_bytes"])) == digest


def test_every_file_is_a_sighting_of_its_bytes(sources, indexed):
    expected, (store, _) = sources[1], indexed
    sightings = store.table("sightings").to_pylist()
    assert {row["path"]: row["image_id"] for row in sightings} == {p: image_id(data) for p, data in expected.items()}
    assert len(sightings) == len(expected)
    (known,) = [row for row in sightings if row["url"]]
    assert (known["path"], known["url"], known["domain"]) == (
        "loose:deep/er/copy.jpg",
        "http://a.test/copy.jpg",
        "a.test",
    )


def test_what_is_no_image_has_its_reason(sources, indexed):
    expected, (store, run) = sources[1], indexed
    drops = {(row["url"].partition("-from-")[0], row["reason"]) for row in store.decisions("index").to_pylist()}
    assert drops >= {
        ("loose:notes.txt", Reason.NO_PICTURE),
        ("loose:zero.jpg", Reason.EMPTY_FILE),
        ("loose:dangling.jpg", Reason.UNREADABLE),
        ("loose:itself.tar", Reason.UNREADABLE),
        ("many:cut.tar#damaged", Reason.BROKEN_FILE),
    }
    copies = len(expected) - len(set(expected.values()))
    rest = {Reason.NO_PICTURE: 1, Reason.EMPTY_FILE: 1, Reason.BROKEN_FILE: 1, Reason.UNREADABLE: 2}
    assert run.dropped == {Reason.EXACT_DUPLICATE: copies, **rest}
    assert run.kept == len(set(expected.values()))


def test_the_tables_are_the_same_for_any_number_of_partitions(spark, sources, indexed, tmp_path):
    store, _ = index(spark, config_of(tmp_path, sources[0], "runtime.partitions=1"))
    assert_same_tables(indexed[0].uri, store.uri)
    (shards,) = Path(store.uri, "shards").iterdir()
    (others,) = Path(indexed[0].uri, "shards").iterdir()
    assert {p.name: p.read_bytes() for p in shards.iterdir()} == {p.name: p.read_bytes() for p in others.iterdir()}


def test_signals_seen_on_the_web_count_for_an_import_of_the_same_address(spark, tmp_path):
    url, page = "http://a.test/rose.jpg", "http://garden.test/"
    (tmp_path / "loose").mkdir()
    (tmp_path / "many").mkdir()
    (tmp_path / "loose" / "a.jpg").write_bytes(picture(1))
    (tmp_path / "loose" / "a.json").write_text(f'{{"url": "{url}", "page_url": "http://other.test/"}}')
    (tmp_path / "many" / "b.jpg").write_bytes(picture(1))
    config = config_of(tmp_path, tmp_path)
    store = Tables(config.store)
    shard = tmp_path / "store" / "shards" / "d" / "00000.tar"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(picture(2))
    crawled = RunKey("download", "d", {}, {})
    link = {"url": url, "page_url": page, "domain": "a.test", "crawl": "c", "rights": ["meta:noindex"]}
    fetch = {"url": url, "shard": "store:shards/d/00000.tar", "offset_bytes": 0, "size_bytes": len(picture(2))}
    store.write(schema.LINKS, pa.Table.from_pylist([link, link], schema=schema.LINKS.schema), crawled)
    rows = [fetch | {"rights": ["header:noai"]}]
    store.write(schema.FETCHES, pa.Table.from_pylist(rows, schema=schema.FETCHES.schema), crawled)
    store, run = index(spark, config)
    assert (run.rows_in, run.kept, run.dropped) == (3, 2, {Reason.EXACT_DUPLICATE: 1})
    seen = store.table("sightings").sort_by([("path", "ascending")]).to_pylist()
    signals = ["header:noai", "meta:noindex"]
    assert [(row["path"], row["url"], row["page_url"], row["crawl"], row["rights"]) for row in seen] == [
        ("loose:a.jpg", url, page, "c", signals),
        ("many:b.jpg", None, None, None, []),
        (None, url, page, "c", signals),
    ]
    assert {row["image_id"] for row in seen[:2]} == {image_id(picture(1))}
    assert seen[2]["image_id"] == image_id(picture(2))


def test_the_listing_and_its_fingerprint_bear_what_is_no_file(sources):
    root, expected = sources
    names = {file.name for file in list_files(str(root / "loose"))}
    files = {
        path.partition("shard.tar#")[0].partition("loose:")[2] or "shard.tar" for path in expected if "loose:" in path
    }
    others = {"deep/er/copy.json", "notes.txt", "zero.jpg", "dangling.jpg", "itself.tar"}
    assert names == files | others
    assert len(fingerprint("images", {"a": str(root / "loose")})) == 64


def test_work_is_cut_into_pieces_that_keep_together_what_belongs_together(tmp_path):
    for number in range(700):
        (tmp_path / f"{number:03d}.jpg").write_bytes(b"x")
        (tmp_path / f"{number:03d}.json").write_bytes(b"{}")
    chunks = list(_chunks({"a": str(tmp_path)}))
    assert [len(chunk["names"]) for chunk in chunks] == [256] * 5 + [120]
    stems = [{name.partition(".")[0] for name in chunk["names"]} for chunk in chunks]
    assert sum(map(len, stems)) == len(set.union(*stems)) == 700
