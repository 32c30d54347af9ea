"""What Pillow would find out too late or too slowly: how many pictures a file holds, and how large a GIF will be."""

import struct

from PIL import Image

ANIMATED_FORMATS = ("GIF", "WEBP", "PNG", "AVIF")  # where more than one picture means that it moves


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
    """Length of the chain of directories, which ends at a directory met before or outside of the file."""
    order = "<" if data[:2] == b"II" else ">"
    is_big = struct.unpack_from(order + "H", data, 2)[0] == 43
    count, entry_bytes, pointer = (("Q", 20, "Q"), ("H", 12, "I"))[not is_big]
    seen: set[int] = set()
    place = 8 if is_big else 4
    try:
        while (start := struct.unpack_from(order + pointer, data, place)[0]) and start not in seen:
            entries = struct.unpack_from(order + count, data, start)[0]
            seen.add(start)
            place = start + struct.calcsize(order + count) + entries * entry_bytes
    except struct.error:
        pass
    return max(1, len(seen))


def gif_size(data: bytes) -> tuple[int, int]:
    """Width and height that a GIF takes on with its first frame, which may reach beyond the declared screen.

    Pillow fills a picture of the frame's size while it opens the file, before anybody could look at its size.
    """
    width, height, flags = struct.unpack_from("<HHB", data.ljust(13, b"\0"), 6)
    place = 13 + (3 << (flags & 7) + 1) * (flags >> 7)
    while place < len(data):
        kind = data[place]
        if kind == 0x3B:  # the end
            break
        if kind == 0x2C and place + 9 <= len(data):
            left, upper, across, down = struct.unpack_from("<4H", data, place + 1)
            return max(width, left + across), max(height, upper + down)
        place += 1
        if kind == 0x21:  # an extension: its label, then blocks, each after its length
            place += 1
            while place < len(data) and data[place]:
                place += 1 + data[place]
            place += 1
    return width, height
