import io
import json
import random
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.images.ids import image_id
from curation.schema import FILES, Reason
from tests.curation.images.importing import RUN, import_all, store_of, tar_of

JPEG, PNG, WEBP = b"\xff\xd8\xff a jpeg", b"\x89PNG\r\n\x1a\n a png", b"RIFF....WEBP a webp"


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "source"
    place.mkdir()
    return place


def write(folder, name, data=JPEG):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def ids(rows):
    return {row["path"]: row["image_id"] for row in rows if row["image_id"]}


def reasons(rows):
    return {row["path"]: row["reason"] for row in rows if row["reason"]}


def told(rows):
    return {row["path"]: tuple(row[name] for name in ("url", "page_url", "domain", "caption")) for row in rows}


def test_rows_are_those_of_the_table(folder):
    write(folder, "a.jpg")
    (row,) = import_all(folder)
    assert list(row) == FILES.schema.names
    assert pa.Table.from_pylist([row], schema=FILES.schema).num_rows == 1


def test_every_file_of_a_folder_is_a_row_or_goes_with_a_picture(folder):
    write(folder, "a.jpg", JPEG)
    write(folder, "a.json", json.dumps({"url": "HTTP://Shop.Example.co.uk:80/a.jpg#x", "caption": "a rose"}).encode())
    write(folder, "a.txt", b"another text")
    write(folder, "deep/b.PNG", PNG)
    write(folder, "deep/b.PNG.json", b'{"page_url": "http://garden.test/"}')
    write(folder, "without_ending", WEBP)
    write(folder, "2024.01.17", JPEG)
    write(folder, "c.txt", b"alone")
    write(folder, "Thumbs.db", b"x")
    write(folder, "film.MOV", b"x")
    write(folder, "zero.jpg", b"")
    write(folder, "old.tar.gz", b"\x1f\x8b")
    rows = import_all(folder)
    assert ids(rows) == {
        "photos:a.jpg": image_id(JPEG),
        "photos:deep/b.PNG": image_id(PNG),
        "photos:without_ending": image_id(WEBP),
        "photos:2024.01.17": image_id(JPEG),
    }
    assert reasons(rows) == {
        "photos:c.txt": Reason.NO_PICTURE,
        "photos:Thumbs.db": Reason.NO_PICTURE,
        "photos:film.MOV": Reason.NO_PICTURE,
        "photos:zero.jpg": Reason.EMPTY_FILE,
        "photos:old.tar.gz": Reason.COMPRESSED_ARCHIVE,
    }
    assert {row["path"]: row["companions"] for row in rows if row["companions"]} == {
        "photos:a.jpg": 2,
        "photos:deep/b.PNG": 1,
    }
    assert told(rows)["photos:a.jpg"] == ("http://shop.example.co.uk/a.jpg", None, "example.co.uk", "a rose")
    assert told(rows)["photos:deep/b.PNG"] == (None, "http://garden.test/", None, None)
    assert told(rows)["photos:without_ending"] == (None, None, None, None)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[1]",
        b'"text"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"url": 17, "caption": ["a"]}',
        b'{"url": "javascript:alert(1)"}',
        b'{"url": "http://user:password@host/"}',
        b'{"url": "http://[::1"}',
        b'{"url": "\\ud800", "caption": ""}',
    ],
)
def test_what_is_no_record_of_an_address_tells_nothing(folder, text):
    write(folder, "a.jpg")
    write(folder, "a.json", text)
    assert told(import_all(folder)) == {"photos:a.jpg": (None, None, None, None)}


def test_a_caption_is_text_that_a_table_can_hold(folder):
    write(folder, "a.jpg")
    write(folder, "a.json", b'{"caption": "half \\ud83d a pair\\u0000", "URL": "http://a.test/"}')
    write(folder, "b.jpg", PNG)
    write(folder, "b.txt", b"latin \xe4 " + b"x" * 10_000)
    rows = import_all(folder)
    assert pa.Table.from_pylist(rows, schema=FILES.schema).column("caption").to_pylist()[0] == "half ? a pair\0"
    assert rows[0]["url"] == "http://a.test/"
    assert rows[1]["caption"].startswith("latin � xxx")
    assert len(rows[1]["caption"]) == 4096


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_of_a_tar_lie_where_their_rows_say(folder, format):
    members = {
        "000.jpg": JPEG,
        "000.json": b'{"url": "http://a.test/0.jpg"}',
        "000.txt": b"caption",
        "001.mask.png": PNG,
        "001.jpg": WEBP,
        "001.json": b'{"url": "http://a.test/1.jpg"}',
        "folder/cam.17.jpg": JPEG + b"17",
        "folder/cam.17.json": b'{"url": "http://a.test/17.jpg"}',
        "folder/cam.18.jpg": JPEG + b"18",
        "folder/cam.18.json": b'{"url": "http://a.test/18.jpg"}',
        "README.md": b"read me",
        "._000.jpg": b"what macOS leaves",
        "../../etc/passwd": b"hostile but no text by its name",
        "/absolute.jpg": JPEG + b"a",
        "zero.jpg": b"",
        "x.zip": b"PK",
        "ünï#::%.png": PNG + b"u",
        "new\nline.jpg": PNG + b"n",
    }
    write(folder, "a.TAR", tar_of(members, format))
    rows = import_all(folder)
    prefix = "photos:a.TAR#"
    pictures = [name for name in members if not name.endswith((".json", ".txt", ".md", ".zip")) and name != "._000.jpg"]
    assert ids(rows) == {prefix + name: image_id(members[name]) for name in pictures if members[name]}
    assert reasons(rows) == {
        prefix + "README.md": Reason.NO_PICTURE,
        prefix + "._000.jpg": Reason.NO_PICTURE,
        prefix + "zero.jpg": Reason.EMPTY_FILE,
        prefix + "x.zip": Reason.COMPRESSED_ARCHIVE,
    }
    urls = {row["path"].removeprefix(prefix): row["url"] for row in rows if row["url"]}
    assert urls == {
        "000.jpg": "http://a.test/0.jpg",
        "001.mask.png": "http://a.test/1.jpg",
        "001.jpg": "http://a.test/1.jpg",
        "folder/cam.17.jpg": "http://a.test/17.jpg",
        "folder/cam.18.jpg": "http://a.test/18.jpg",
    }
    assert sum(row["companions"] for row in rows) == 5
    assert {row["shard"] for row in rows} == {"photos:a.TAR"}


def test_names_that_come_twice_and_bytes_that_come_twice_are_rows_of_their_own(folder):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for data in (JPEG, PNG, JPEG):
            entry = tarfile.TarInfo("same.jpg")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    write(folder, "a.tar", file.getvalue())
    rows = import_all(folder)
    assert [row["image_id"] for row in rows] == [image_id(JPEG), image_id(PNG), image_id(JPEG)]
    assert len({row["offset_bytes"] for row in rows}) == 3


def test_links_sparse_files_and_devices_in_a_tar_are_rows(folder):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, what in (("s.jpg", tarfile.SYMTYPE), ("h.jpg", tarfile.LNKTYPE), ("f.jpg", tarfile.FIFOTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = what, "/etc/passwd"
            tar.addfile(entry)
        entry = tarfile.TarInfo("dir.jpg")
        entry.type = tarfile.DIRTYPE
        tar.addfile(entry)
    write(folder, "a.tar", file.getvalue())
    rows = import_all(folder)
    assert {(row["path"], row["detail"]) for row in rows} == {
        ("photos:a.tar#s.jpg", "a link within a tar"),
        ("photos:a.tar#h.jpg", "a link within a tar"),
        ("photos:a.tar#f.jpg", "a device within a tar"),
    }


def test_tars_in_tars_are_read_where_they_lie(folder):
    inner = tar_of({"n01/a.jpg": JPEG, "n01/a.txt": b"caption", "b.png": PNG})
    write(folder, "all.tar", tar_of({"n01.tar": inner, "n02.tar": tar_of({"c.webp": WEBP}), "d.jpg": JPEG}))
    rows = import_all(folder)
    assert ids(rows) == {
        "photos:all.tar#n01.tar#n01/a.jpg": image_id(JPEG),
        "photos:all.tar#n01.tar#b.png": image_id(PNG),
        "photos:all.tar#n02.tar#c.webp": image_id(WEBP),
        "photos:all.tar#d.jpg": image_id(JPEG),
    }
    assert {row["shard"] for row in rows} == {"photos:all.tar"}
    deep = inner
    for _ in range(20):
        deep = tar_of({"deeper.tar": deep})
    write(folder, "all.tar", deep)
    (row,) = import_all(folder)
    assert row["reason"] == Reason.NO_PICTURE


def test_a_cut_tar_gives_its_whole_members_and_a_row_for_the_rest(folder):
    data = tar_of({f"{i}.jpg": JPEG + bytes([i]) * 600 for i in range(5)})
    whole = [image_id(JPEG + bytes([i]) * 600) for i in range(5)]
    for cut in range(1, 5 * (512 + 1024) + 512, 311):
        write(folder, "a.tar", data[:cut])
        *found, last = import_all(folder)
        assert [row["image_id"] for row in found] == whole[: len(found)]
        assert len(found) >= (cut - 512) // (512 + 1024)
        assert last["reason"] == Reason.BROKEN_FILE
        assert last["offset_bytes"] + last["size_bytes"] == cut


@pytest.mark.parametrize("data", [b"no tar", bytes(511), b"\x1f\x8b\x08" + bytes(2000), tar_of({"a.jpg": JPEG})[:100]])
def test_what_is_no_tar_is_a_row(folder, data):
    write(folder, "a.tar", data)
    (row,) = import_all(folder)
    assert (row["reason"], row["size_bytes"]) == (Reason.BROKEN_FILE, len(data))


def test_a_tar_without_files_is_a_row(folder):
    write(folder, "a.tar", tar_of({}))
    write(folder, "b.tar", b"")
    assert reasons(import_all(folder)) == {"photos:a.tar": Reason.NO_PICTURE, "photos:b.tar": Reason.EMPTY_FILE}


def test_headers_that_ask_for_more_than_there_is_are_refused(folder):
    long_name = tarfile.TarInfo("././@LongLink")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    endless = 5000 * (_header("././@LongLink", 10, tarfile.GNUTYPE_LONGNAME) + b"x".ljust(512, b"\0"))
    for data in (long_name.tobuf(tarfile.GNU_FORMAT) + bytes(1024), endless + bytes(1024)):
        write(folder, "a.tar", data)
        (row,) = import_all(folder)
        assert row["reason"] == Reason.BROKEN_FILE


def _header(name, size, what):
    entry = tarfile.TarInfo(name)
    entry.size, entry.type = size, what
    return entry.tobuf(tarfile.GNU_FORMAT)


def test_what_cannot_be_opened_is_a_row(folder):
    write(folder, "a.jpg")
    (folder / "gone.jpg").symlink_to("nowhere")
    (folder / "loop.jpg").symlink_to("loop2.jpg")
    (folder / "gone.tar").symlink_to("nowhere")
    (folder / "a.json").symlink_to("nowhere")
    write(folder.parent, "outside.png", PNG)
    (folder / "link.png").symlink_to(folder.parent / "outside.png")
    rows = import_all(folder)
    assert ids(rows) == {"photos:a.jpg": image_id(JPEG), "photos:link.png": image_id(PNG)}
    assert reasons(rows) == {f"photos:{name}": Reason.UNREADABLE for name in ("gone.jpg", "gone.tar")} | {
        "photos:loop.jpg": Reason.UNREADABLE
    }


def parquet(folder, name, table, **options):
    pq.write_table(table, folder / name, **options)


def test_bytes_in_parquet_are_copied_into_the_store(folder):
    urls = ["http://a.test/1.jpg", None, "no address", "http://a.test/3.jpg"]
    texts = ["one", "two", None, "x"]
    parquet(folder, "p.parquet", pa.table({"jpg": [JPEG, PNG, WEBP, None], "url": urls, "TEXT": texts}))
    rows = import_all(folder)
    assert ids(rows) == {
        "photos:p.parquet#jpg/0": image_id(JPEG),
        "photos:p.parquet#jpg/1": image_id(PNG),
        "photos:p.parquet#jpg/2": image_id(WEBP),
    }
    assert reasons(rows) == {"photos:p.parquet#jpg/3": Reason.EMPTY_FILE}
    assert all(row["shard"].startswith(f"store:shards/{RUN}/imported-") for row in rows if row["image_id"])
    assert told(rows)["photos:p.parquet#jpg/0"] == ("http://a.test/1.jpg", None, "a.test", "one")
    assert told(rows)["photos:p.parquet#jpg/2"] == (None, None, None, None)


def test_columns_of_image_bytes_of_any_kind(folder):
    face = pa.array([{"bytes": JPEG, "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}, None])
    columns = {
        "face": face,
        "Image": pa.array([PNG, None, b""], pa.large_binary()),
        "embedding": pa.array([b"1", b"2", b"3"]),
        "url": pa.array(["http://a.test/"] * 3).dictionary_encode(),
    }
    parquet(folder, "p.parquet", pa.table(columns))
    rows = import_all(folder)
    assert ids(rows) == {"photos:p.parquet#face/0": image_id(JPEG), "photos:p.parquet#Image/0": image_id(PNG)}
    assert len(rows) == 6
    assert {row["url"] for row in rows} == {"http://a.test/"}


def test_the_copies_of_a_file_are_the_same_for_every_repetition(folder):
    images = [bytes([i]) * 5000 for i in range(100)]
    parquet(folder, "p.parquet", pa.table({"image": images}), row_group_size=7)
    store = store_of(folder)
    first = import_all(folder)
    shards = {path: path.read_bytes() for path in (folder.parent / "store" / "shards").rglob("*") if path.is_file()}
    assert len(shards) == 1
    assert import_all(folder) == first
    assert {path: path.read_bytes() for path in shards} == shards
    (path,) = shards
    with tarfile.open(path) as tar:
        assert [tar.extractfile(member).read() for member in tar] == images
    assert list(path.parent.iterdir()) == [path]
    assert store.shard_uri(first[0]["shard"]) == str(path)


@pytest.mark.parametrize(
    ("table", "detail"),
    [
        (pa.table({"embedding": [b"x"], "n": [1]}), "embedding: binary, n: int64"),
        (pa.table({"image": ["a path"]}), "image: string"),
        (pa.table({"url": ["http://a.test/"]}), "url: string"),
        (pa.table({"jpg": pa.array([], pa.binary())}), "no rows"),
    ],
)
def test_a_table_without_images_is_a_row(folder, table, detail):
    parquet(folder, "p.parquet", table)
    (row,) = import_all(folder)
    assert row["reason"] == Reason.NO_PICTURE
    assert detail in row["detail"]


@pytest.mark.parametrize("doubled", ["image", "url", "status"])
def test_two_columns_of_one_name_are_a_row(folder, doubled):
    names = ["image", "url", "status", doubled]
    values = {"image": pa.array([JPEG]), "url": pa.array(["http://a.test/"]), "status": pa.array(["success"])}
    parquet(folder, "p.parquet", pa.table([values[name] for name in names], names=names))
    parquet(folder, "q.parquet", pa.table([values["image"], pa.array([1]), pa.array([2])], names=["image", "n", "n"]))
    refused, whole = import_all(folder)
    assert (refused["path"], refused["reason"]) == ("photos:p.parquet", Reason.BROKEN_FILE)
    assert repr(doubled) in refused["detail"]
    assert whole["image_id"] == image_id(JPEG)


def test_a_damaged_table_gives_its_whole_rows_and_one_for_the_rest(folder):
    images = [random.Random(row).randbytes(20_000) for row in range(200)]
    parquet(folder, "p.parquet", pa.table({"jpg": images}), row_group_size=50, write_page_checksum=True)
    data = bytearray((folder / "p.parquet").read_bytes())
    for at in range(len(data) // 2, len(data) // 2 + 100):
        data[at] ^= 0xFF
    write(folder, "p.parquet", bytes(data))
    *whole, last = import_all(folder)
    assert [row["image_id"] for row in whole] == [image_id(data) for data in images[: len(whole)]]
    assert 50 <= len(whole) < 200
    assert (last["reason"], last["path"]) == (Reason.BROKEN_FILE, f"photos:p.parquet#damaged-from-{len(whole)}")
    write(folder, "p.parquet", bytes(data[:-100]))
    (row,) = import_all(folder)
    assert row["reason"] == Reason.BROKEN_FILE


def test_text_columns_need_not_be_utf8(folder):
    raw = pa.array([b"caf\xe9"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 1, raw.buffers())
    parquet(folder, "p.parquet", pa.table({"jpg": [JPEG], "caption": text}))
    (row,) = import_all(folder)
    assert row["caption"] == "caf�"


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["web_animals", "faces", "dedup_cases"])
def test_real_folders(shared_data, folder, name):
    folder.rmdir()
    folder.symlink_to(shared_data / name)
    files = {f"photos:{path.relative_to(folder)}": path for path in folder.rglob("*") if path.is_file()}
    rows = import_all(folder)
    assert {row["path"] for row in rows} <= set(files)
    assert sum(row["companions"] for row in rows) == len(files) - len(rows)
    endings = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp")
    assert set(ids(rows)) >= {path for path in files if path.lower().endswith(endings)} != set()
    assert set(reasons(rows).values()) == {Reason.NO_PICTURE}
