"""How many pictures a file holds: the frames of an animation, the pages of a TIFF, the views of an MPO."""

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
