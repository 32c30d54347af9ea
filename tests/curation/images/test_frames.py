"""What is read of a file before Pillow decodes it, held against Pillow."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import GifImagePlugin, Image

from curation.images import decode as decoding
from curation.images.decode import DecodeError, decode
from curation.images.frames import gif_size, has_more_scans
from curation.images.quality import QualityRules
from curation.images.screening import screen
from curation.schema import Reason
from tests.curation.images.mutants import encoded, photo

RULES = QualityRules(min_side=32)
SCAN = b"\xff\xda\x00\x08\x01\x01\x00\x00\x00\x10"  # of the first component, first bit of its constant part again
FRAME = b"\x2c" + struct.pack("<4HB", 0, 0, 10, 10, 0)
HUGE = b"\x2c" + struct.pack("<4HB", 0, 0, 20_000, 20_000, 0) + b"\x02\x02\x44\x01\x00;"
GIF = b"GIF89a" + struct.pack("<HHBBB", 10, 10, 0x80, 0, 0) + bytes(6)


def _refused(data, max_pixels=1_000_000):
    with pytest.raises(DecodeError) as caught:
        decode(data, max_pixels, 32)
    return caught.value.reason, str(caught.value)


def test_pages_behind_the_first_of_a_tiff_are_not_kept_unseen():
    pages = {"save_all": True, "append_images": [photo(40, 40), photo(50, 40)]}
    refusal = screen(encoded(photo(), "TIFF", **pages), RULES).refusal
    assert (refusal.reason, refusal.detail) == (Reason.ANIMATED, "3 pages")
    assert screen(encoded(photo(), "TIFF"), RULES).refusal is None
    assert screen(encoded(photo(), "MPO", **pages), RULES).refusal is None


def _allocates_nothing(monkeypatch):
    def fill(mode, size, colour=0):
        raise AssertionError(f"{size} filled")

    monkeypatch.setattr(Image.core, "fill", fill)


@pytest.mark.parametrize("label", [b"\x00", b"\x01", b"\xf9", b"\xff"])
def test_a_frame_behind_an_empty_block_of_an_extension_is_seen(label, monkeypatch):
    """Pillow takes the first frame's comma for the length of another block."""
    _allocates_nothing(monkeypatch)
    hidden = FRAME + bytes(0x2C + 1 - len(FRAME)) + b"\0!\xf9\x04\x08\0\0\0\0" + HUGE
    for head in (b"!" + label + b"\0", b"!\xff\x0bNETSCAPE2.0\0"):
        assert gif_size(GIF + head + hidden) == (20_000, 20_000)
        reason, message = _refused(GIF + head + hidden)
        assert (reason, message) == (Reason.TOO_MANY_PIXELS, "declares 20000 x 20000 pixels, more than 1000000")


def _extension(rng):
    blocks = b"".join(bytes([n]) + rng.bytes(n) for n in rng.integers(0, 5, rng.integers(0, 4)))
    name = rng.choice([b"", b"\x0bNETSCAPE2.0", b"\x0bXMP DataXMP"])
    return (
        b"!" + bytes(rng.choice([b"\x01", b"\xf9", b"\xfe", b"\xff"])) + bytes(name) + blocks + b"\0" * rng.integers(2)
    )


def test_a_gif_has_the_size_that_pillow_gives_it():
    """Extensions of odd blocks, and frames that are behind or within them."""
    rng, sizes = np.random.default_rng(0), set()
    for _ in range(3000):
        data = GIF
        for _ in range(rng.integers(1, 6)):
            side = int(rng.integers(1, 200))
            frame = b"\x2c" + struct.pack("<4HB", side, 0, side, side, 0) + b"\x02\x02\x44\x01\x00"
            data += frame if rng.random() < 0.3 else _extension(rng) + b"\x07" * rng.integers(3)
        try:
            image = Image.open(io.BytesIO(data), formats=["GIF"])
        except Exception:
            continue
        assert isinstance(image, GifImagePlugin.GifImageFile)
        assert gif_size(data) == image.size, data
        sizes.add(image.size)
    assert len(sizes) > 100


def test_a_jpeg_of_very_many_scans_is_refused():
    data = encoded(photo(), "JPEG", progressive=True)
    own = data.count(b"\xff\xda")
    assert decode(data[:-2] + SCAN * (100 - own) + data[-2:], 10**6).width == 96
    bomb = data[:-2] + SCAN * (101 - own) + data[-2:]
    assert _refused(bomb) == (Reason.UNSUPPORTED_FORMAT, "JPEG of more than 100 scans")


def test_scans_are_markers_between_segments():
    """Neither what metadata and a second picture hold, nor what is behind a filler, changes their number."""
    data = encoded(photo(), "JPEG", progressive=True)
    scans = data.count(b"\xff\xda")
    assert has_more_scans(data, scans - 1)
    assert not has_more_scans(data, scans)
    comment = data[:2] + b"\xff\xfe" + struct.pack(">H", 802) + SCAN * 80 + data[2:]
    assert decode(comment, 10**6).width == 96
    for same in (comment, data + data, data.replace(b"\xff\xda", b"\xff\xff\xda"), data[:2] + b"\0\xff\x01" + data[2:]):
        assert has_more_scans(same, scans - 1)
        assert not has_more_scans(same, scans)


def _tiled(tile, size=(16, 16), doubled=False, orientation=1):
    """A TIFF of one deflated tile."""
    packer = zlib.compressobj(9)
    pixels = b"".join(packer.compress(bytes(tile[0])) for _ in range(tile[1])) + packer.flush()
    tags = [(256, size[0]), (257, size[1]), (258, 8), (259, 8), (262, 1), (274, orientation), (277, 1), (322, tile[0])]
    tags += [(323, tile[1]), (324, 0), (325, len(pixels))] + [(322, 16), (323, 16)] * doubled
    tags.sort(key=lambda entry: entry[0])
    offset = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, offset if tag == 324 else value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + pixels


def test_tiles_count_with_all_of_their_pixels():
    reason, message = _refused(_tiled((1600, 1008)))
    assert (reason, message) == (Reason.TOO_MANY_PIXELS, "declares 1600 x 1008 pixels, more than 1000000")
    assert decode(_tiled((1024, 976)), 1024 * 976).image.size == (16, 16)
    assert _refused(_tiled((1024, 976)), 1024 * 976 - 1)[0] == Reason.TOO_MANY_PIXELS
    assert decode(_tiled((96, 32), (90, 30), orientation=6), 96 * 32).image.size == (30, 90)
    refusal = screen(_tiled((1600, 1008)), QualityRules(min_side=1, max_pixels=10**6)).refusal
    assert (refusal.score, refusal.threshold) == (1600 * 1008, 10**6)


def test_tiles_that_two_readers_would_size_differently_are_refused():
    assert _refused(_tiled((1600, 1008), doubled=True))[0] == Reason.TRUNCATED


def test_a_chain_of_directories_may_lead_anywhere():
    data = bytearray(encoded(photo(), "TIFF", big_tiff=True))
    start = struct.unpack_from("<Q", data, 8)[0]
    entries = struct.unpack_from("<Q", data, start)[0]
    struct.pack_into("<Q", data, start + 8 + 20 * entries, 2**63)
    assert decode(bytes(data), 10**6).num_frames == 1


@pytest.mark.parametrize("place", ["_open", "_header", "_orientation", "_rgb"])
def test_too_little_memory_is_no_verdict_on_a_picture(place, monkeypatch):
    def exhausted(*_, **__):
        raise MemoryError

    if place == "_open":
        monkeypatch.setattr(Image, "open", exhausted)
    elif place == "_orientation":
        monkeypatch.setattr(Image.Image, "getexif", exhausted)
    else:
        monkeypatch.setattr(decoding, place, exhausted)
    with pytest.raises(MemoryError):
        decode(encoded(photo(), "BMP"), 10**6)
