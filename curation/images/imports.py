"""Files that are on disk already, as rows of the ``files`` table: whole files, and the members of tars."""

from collections.abc import Iterator
from typing import Any, BinaryIO

from curation.images.ids import image_id
from curation.images.tars import members

# what a WebDataset sample carries beside its image
_COMPANIONS = (".json", ".txt", ".cls", ".cap", ".caption")


def imported_files(file: BinaryIO, location: str) -> Iterator[dict[str, Any]]:
    """Identify the content of one file, or of every member of a tar but its texts.

    Args:
        file: opened for reading.
        location: "<source name>:<relative path>", kept as shard and path; a tar's members add ``#<member>``.

    Yields:
        Rows of ``schema.FILES``. A tar that ends early yields its whole members and then a row for the rest, which
        is no image and is dropped as such when it is screened.
    """
    if not location.endswith(".tar"):
        data = file.read()
        yield _row(data, location, location, 0)
        return
    end = 0
    try:
        for member in members(file):
            end = member.offset_bytes + member.size_bytes
            if not member.name.lower().endswith(_COMPANIONS):
                file.seek(member.offset_bytes)
                yield _row(file.read(member.size_bytes), f"{location}#{member.name}", location, member.offset_bytes)
    except ValueError:
        file.seek(end)
        yield _row(file.read(), f"{location}#damaged-from-{end}", location, end)


def _row(data: bytes, path: str, shard: str, offset_bytes: int) -> dict[str, Any]:
    return {
        "image_id": image_id(data) if data else None,
        "url": None,
        "path": path,
        "shard": shard,
        "offset_bytes": offset_bytes,
        "size_bytes": len(data),
    }
