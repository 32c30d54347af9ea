"""Each kind of file that the web holds, from its bytes to its row."""

import struct
import zlib

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw, PngImagePlugin

from curation import schema
from curation.images import pca_hash
from curation.images.decode import decode
from curation.images.pca_hash import cosine_basis
from curation.images.quality import QualityRules
from curation.images.screening import screen, screened_rows
from curation.schema import Reason
from tests.curation.images.mutants import encoded, photo, seeds

RULES = QualityRules(min_side=32, max_pixels=1_000_000)
BOMB = zlib.compress(bytes(100_000_000), 9)


def _row(data, rules=RULES):
    return screened_rows([("id", data)], rules, cosine_basis())[0]


def _png(width, height, *chunks, kind=2):
    """A PNG of the given header, then chunks of (name, data)."""
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IEND", b"")]
    written = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def _pixels(width, height):
    return zlib.compress(bytes((3 * width + 1) * height))


def test_every_seed_is_kept_or_refused_for_what_it_is():
    files = seeds()
    rows = dict(zip(files, screened_rows(files.items(), RULES, cosine_basis()), strict=True))
    refused = {name: row["reason"] for name, row in rows.items() if "reason" in row}
    moving = ("apng", "webp_moving", "gif_moving", "avif_moving", "tiff_pages")
    expected = dict.fromkeys(moving, Reason.ANIMATED) | dict.fromkeys(("ico", "svg"), Reason.UNSUPPORTED_FORMAT)
    assert refused == expected
    assert all(rows[name]["num_frames"] == 2 for name in ("mpo", "tiff_pages", "avif_moving"))
    kept = [row for name, row in rows.items() if name not in refused]
    assert all(row["pca_hash"] and row["entropy"] > 3 and row["width"] for row in kept)
    pa.RecordBatch.from_pylist(list(rows.values()), schema=schema.SCREENED.schema)


def test_what_does_not_fit_is_measured_all_the_same():
    """Other limits must need no decoding."""
    small = _row(encoded(photo(40, 20), "PNG"))
    assert small["reason"] == Reason.TOO_SMALL
    assert small["entropy"] > 3
    assert len(small["pca_hash"]) == pca_hash.NUM_BITS // 4
    assert (small["score"], small["threshold"]) == (20, 32)
    moving = _row(seeds()["gif_moving"])
    assert (moving["num_frames"], moving["score"], moving["threshold"]) == (3, 3, 1)
    assert moving["pca_hash"]


@pytest.mark.parametrize(
    ("width", "height"), [(10**9, 1), (1, 10**9), (50_000, 50_000), (2**31 - 1, 2**31 - 1), (2**32 - 1, 2**32 - 1)]
)
def test_declared_size_is_on_record(width, height):
    row = _row(_png(width, height, (b"IDAT", zlib.compress(bytes(10**6)))))
    assert row["reason"] == Reason.TOO_MANY_PIXELS
    assert (row["width"], row["height"]) == (width, height)
    assert (row["score"], row["threshold"]) == (float(width * height), 1e6)
    pa.RecordBatch.from_pylist([row], schema=schema.SCREENED.schema)


@pytest.mark.parametrize("name", [b"zTXt", b"iTXt", b"iCCP"])
@pytest.mark.parametrize("place", ["before", "after"])
def test_metadata_that_unpacks_without_end_is_refused_unread(name, place):
    head = b"k\0\1\0\0\0" if name == b"iTXt" else b"k\0\0"
    bomb = (name, head + BOMB)
    pixels = (b"IDAT", _pixels(64, 64))
    row = _row(_png(64, 64, *((bomb, pixels) if place == "before" else (pixels, bomb))))
    assert row["reason"] in (Reason.TRUNCATED, Reason.BLANK)


def test_pixels_that_unpack_beyond_the_declared_size():
    row = _row(_png(64, 64, (b"IDAT", BOMB)))
    assert row["reason"] in (Reason.TRUNCATED, Reason.BLANK)


def test_a_format_is_that_of_the_bytes():
    """No name is asked: a row tells what the decoder found."""
    assert [_row(encoded(photo(), form))["format"] for form in ("PNG", "WEBP", "GIF")] == ["PNG", "WEBP", "GIF"]


def test_junk_behind_the_picture_is_let_be():
    for form in ("JPEG", "PNG", "GIF", "BMP"):
        data = encoded(photo(), form)
        assert _row(data + b"<?php echo 1; ?>" + bytes(5000)) == _row(data)


def test_solid_and_nearly_empty_pictures_are_blank():
    solid = [Image.new("RGB", (200, 150), colour) for colour in ("white", "black", (200, 30, 40))]
    word = Image.new("RGB", (400, 300), "white")
    ImageDraw.Draw(word).text((150, 140), "No image available", fill="black")
    glass = photo(200, 150)
    glass.putalpha(0)
    for picture, form in [*((p, "JPEG") for p in (*solid, word)), (glass, "PNG")]:
        row = _row(encoded(picture, form))
        assert row["reason"] == Reason.BLANK
        assert row["score"] < row["threshold"] == 1.0


def test_pages_of_text_and_plain_backgrounds_are_not_blank():
    page = Image.new("RGB", (600, 800), "white")
    for line in range(0, 800, 24):
        ImageDraw.Draw(page).text(
            (10, line), "Lorem ipsum dolor sit amet, consectetur adipiscing elit " * 2, fill="black"
        )
    thing = Image.new("RGB", (400, 400), "white")
    thing.paste(photo(100, 100), (150, 150))
    assert "reason" not in _row(encoded(page, "PNG"))
    assert "reason" not in _row(encoded(thing, "JPEG"))


def test_adobe_writes_cmyk_inverted():
    red = Image.new("CMYK", (64, 64), (0, 255, 255, 0))
    data = encoded(red, "JPEG")
    assert b"Adobe" in data
    assert np.asarray(screen(data, RULES).thumbnail)[16, 16].tolist() == pytest.approx([255, 0, 0], abs=8)


def test_a_png_that_moves_is_told_from_one_that_could():
    one = encoded(photo(), "PNG", save_all=True, append_images=[])
    assert "reason" not in _row(one)


def test_a_picture_of_text_chunks_still_counts():
    info = PngImagePlugin.PngInfo()
    for k in range(50):
        info.add_text(f"key{k}", "words " * 50, zip=True)
    assert "reason" not in _row(encoded(photo(), "PNG", pnginfo=info))


def test_a_row_does_not_depend_on_its_neighbours():
    files = list(seeds().items())
    together = screened_rows(files, RULES, cosine_basis())
    assert together == [screened_rows([file], RULES, cosine_basis())[0] for file in files]
    assert screened_rows([], RULES, cosine_basis()) == []


def test_many_empty_pages_are_counted_quickly():
    entries = [(256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, 8), (279, 4, 1, 64)]
    body = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *e) for e in entries)
    size, count = len(body) + 4, 300_000
    pages = b"".join(body + struct.pack("<I", 72 + size * (k + 1)) for k in range(count - 1))
    data = b"II*\0" + struct.pack("<I", 72) + bytes(64) + pages + body
    assert _row(data + struct.pack("<I", 0))["num_frames"] == count
    assert _row(data + struct.pack("<I", 72))["num_frames"] == count  # in a circle
    assert _row(data + struct.pack("<I", 2**32 - 1))["num_frames"] == count


@pytest.mark.realdata
def test_no_real_photograph_is_refused(shared_data):
    rules = QualityRules(min_side=64)
    for folder in ("imagenet_samples/resized", "web_animals", "faces"):
        files = [f for f in sorted((shared_data / folder).rglob("*")) if f.suffix.lower() in (".jpg", ".jpeg")]
        images = ((file.name, file.read_bytes()) for file in files[::4])
        refused = [row for row in screened_rows(images, rules, cosine_basis()) if row.get("reason")]
        assert refused == [], folder


@pytest.mark.realdata
def test_real_jpegs_show_the_same_at_a_reduced_scale(shared_data):
    for file in sorted((shared_data / "imagenet_samples" / "original").iterdir())[::4]:
        data = file.read_bytes()
        whole = pca_hash.thumbnail(decode(data, 10**8).image)
        reduced = np.asarray(decode(data, 10**8, pca_hash.SIDE).image)
        both = np.stack([whole, reduced])
        assert pca_hash.distances(both)[1, 0] < pca_hash.MAX_DISTANCE / 2
        assert np.abs(both[0].astype(int) - both[1]).mean() < 2
