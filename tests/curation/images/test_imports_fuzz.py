"""Tars and Parquet files changed at random: every file gives rows, and whatever has an id can be read back."""

import io
import random

import pyarrow as pa
import pyarrow.parquet as pq

from curation.images.ids import image_id
from tests.curation.images.importing import import_all, tar_of

NUM_FILES = 100  # of each kind


def mutated(data, random):
    data = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(data))
        kind = random.randrange(4)
        if kind == 0:
            data[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            del data[at : at + random.randrange(1, 2000)]
        elif kind == 2:
            data[at:at] = data[: random.randrange(1, 1000)]
        else:
            data[at : at + 8] = random.randbytes(8)
        data = data or bytearray(b"x")
    return bytes(data)


def pictures(random):
    return [b"\xff\xd8\xff" + random.randbytes(random.randrange(1, 3000)) for _ in range(12)]


def table(images, random):
    columns = {
        "image": [{"bytes": data, "path": "x"} for data in images],
        "jpg": images,
        "url": [f"http://a.test/{number}.jpg" for number in range(len(images))],
        "status": ["success"] * len(images),
    }
    file = io.BytesIO()
    how = {"compression": random.choice(["zstd", "snappy", "none"]), "write_page_checksum": random.random() < 0.5}
    pq.write_table(pa.table(columns), file, row_group_size=5, **how)
    return file.getvalue()


def test_mutated_files_give_rows_and_end(tmp_path):
    dice = random.Random(20)
    folder = tmp_path / "source"
    folder.mkdir()
    whole = set()
    for number in range(NUM_FILES):
        images = pictures(dice)
        whole |= {image_id(data) for data in images}
        members = {f"{i:03d}.jpg": data for i, data in enumerate(images)}
        members |= {
            "n" * 80 + "/" + "m" * 80 + ".png": images[0],
            "inner.tar": tar_of({"x.jpg": images[1]}),
            "a.json": b'{"url": 1}',
        }
        (folder / f"t{number}.tar").write_bytes(mutated(tar_of(members, number % 3), dice))
        (folder / f"p{number}.parquet").write_bytes(mutated(table(images, dice), dice))
    rows = import_all(folder)
    reached = {row["path"].removeprefix("photos:").partition("#")[0] for row in rows}
    assert reached == {path.name for path in folder.iterdir()}
    found = [row["image_id"] for row in rows if row["image_id"]]
    assert len(whole & set(found)) > len(whole) / 2, "most pictures are still whole"
    assert sum(row["reason"] == "broken_file" for row in rows) > NUM_FILES / 2, "most files are damaged"
    keys = [(row["path"], row["shard"], row["offset_bytes"]) for row in rows]
    assert len(set(keys)) == len(keys)
