"""What Pillow would find out too late or too slowly: how many pictures a file holds, and what decoding it takes."""

import io
import re
import struct
from collections import Counter
from collections.abc import Iterator

from PIL import Image

# Where all pictures of a file are as good as the first: frames of an animation, pages of a TIFF. Views of an MPO, which
# is a JPEG with more behind it, are mostly gain maps and depth: they are counted, and nobody looks at them.
ANIMATED_FORMATS = ("GIF", "WEBP", "PNG", "AVIF", "TIFF")

_WIDTH, _LENGTH, _TILE_WIDTH, _TILE_LENGTH = 256, 257, 322, 323  # tags of a TIFF
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")  # of a JPEG's end or of a segment, which tells its length


def num_frames(image: Image.Image, data: bytes) -> int:
    """Pictures in an opened file, at least 1; none is decoded.

    APNG, WebP, AVIF and MPO state the number; GIF and TIFF are walked through.

    Args:
        image: as ``Image.open`` gave it, not loaded.
        data: what it was opened from.

    Raises:
        Exception: a GIF whose later frames are damaged.
    """
    if image.format == "TIFF":
        return _tiff_pages(data)  # Pillow parses every tag of every page: minutes for 32 MiB of empty ones
    return max(1, int(getattr(image, "n_frames", 1)))


def _tiff_pages(data: bytes) -> int:
    """Directories of a file, at least 1."""
    return max(1, sum(1 for _ in _tiff_directories(data)))


def tiled_size(image: Image.Image, data: bytes) -> tuple[int, int] | None:
    """Width and height of an opened TIFF's first page, as it is stored, made up to whole tiles; None without tiles.

    Raises:
        ValueError: the size of its tiles is given twice, of which Pillow reads the last and libtiff the first, or makes
            no sense.
    """
    tags = image.tag_v2  # type: ignore[attr-defined]
    if not {_TILE_WIDTH, _TILE_LENGTH} & set(tags):
        return None
    order, is_big = _tiff_kind(data)
    first, entries = next(_tiff_directories(data))
    layout = struct.Struct(order + ("H18x" if is_big else "H10x"))
    block = data[first : first + entries * layout.size]
    told = Counter(tag for (tag,) in layout.iter_unpack(block[: len(block) // layout.size * layout.size]))
    tile = [tags.get(tag) for tag in (_TILE_WIDTH, _TILE_LENGTH)]
    if (
        told[_TILE_WIDTH] != 1
        or told[_TILE_LENGTH] != 1
        or not all(isinstance(side, int) and side > 0 for side in tile)
    ):
        raise ValueError(f"tiles of {tile[0]} x {tile[1]}, or told twice")
    width, height = (-(-tags[tag] // side) * side for tag, side in zip((_WIDTH, _LENGTH), tile, strict=True))
    return width, height


def _tiff_kind(data: bytes) -> tuple[str, bool]:
    """The order of its bytes, for ``struct``, and whether it is a BigTIFF."""
    order = "<" if data[:2] == b"II" else ">"
    return order, struct.unpack_from(order + "H", data, 2)[0] == 43


def _tiff_directories(data: bytes) -> Iterator[tuple[int, int]]:
    """Of each directory in the chain: where its entries begin, and their number.

    The chain ends at a directory met before or outside of the file.
    """
    order, is_big = _tiff_kind(data)
    count, entry_bytes, pointer = (("Q", 20, "Q"), ("H", 12, "I"))[not is_big]
    seen: set[int] = set()
    place = 8 if is_big else 4
    try:
        while (start := struct.unpack_from(order + pointer, data, place)[0]) and start not in seen:
            entries = struct.unpack_from(order + count, data, start)[0]
            seen.add(start)
            first = start + struct.calcsize(order + count)
            place = first + entries * entry_bytes
            yield first, entries
    except (struct.error, OverflowError):  # the latter: a place beyond 2**63
        pass


def has_more_scans(data: bytes, limit: int) -> bool:
    """Whether a JPEG is in more scans than that; the decoder goes over the whole picture for each of them."""
    if data.count(b"\xff\xda") <= limit:  # so nearly always that the segments need no walk
        return False
    found, place = 0, 0
    while found <= limit and (marker := _MARKER.search(data, place)) and marker[1] != b"\xd9":
        found += marker[1] == b"\xda"
        place = marker.end() + max(2, int.from_bytes(data[marker.end() : marker.end() + 2]))
    return found > limit


def gif_size(data: bytes) -> tuple[int, int]:
    """Width and height that a GIF takes on with its first frame, which may reach beyond the declared screen.

    Pillow fills a picture of the frame's size while it opens the file, before anybody could look at its size. So blocks
    are read here as Pillow reads them, which goes on after the empty block that should end some extensions.
    """
    width, height, flags = struct.unpack_from("<HHB", data.ljust(13, b"\0"), 6)
    file = io.BytesIO(data)
    file.seek(13 + (3 << (flags & 7) + 1) * (flags >> 7))

    def block() -> bytes:
        length = file.read(1)
        return file.read(length[0]) if length else b""

    while (kind := file.read(1)) not in (b"", b";"):
        if kind == b"," and len(frame := file.read(8)) == 8:
            left, upper, across, down = struct.unpack("<4H", frame)
            return max(width, left + across), max(height, upper + down)
        if kind == b"!":
            label, first = file.read(1), block()
            if label == b"\xfe" and not first:  # a comment: the one extension that its first empty block ends
                continue
            if label == b"\xff" and first.startswith(b"NETSCAPE2.0"):
                block()
            while block():
                pass
    return width, height
