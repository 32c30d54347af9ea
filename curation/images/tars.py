"""Where the members of a tar shard lie, so that an image can be read later with one ranged read."""

import io
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

_BLOCK_BYTES = 512


class Member(NamedTuple):
    """One ordinary file in a tar: its name as data (never to be used as a path) and where its bytes lie."""

    name: str
    offset_bytes: int
    size_bytes: int


def members(file: BinaryIO) -> Iterator[Member]:
    """Ordinary files of an uncompressed tar, in order; links, folders and sparse files are passed over.

    Args:
        file: a seekable binary file.

    Raises:
        ValueError: the file is no tar, or it is damaged or cut off. Every whole member before that point has
            been given by then. An archive without its end marker counts as cut off.
    """
    total_bytes = file.seek(0, io.SEEK_END)
    file.seek(0)
    end = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (entry := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # else memory grows with the archive
                end = entry.offset_data + entry.size
                if entry.size < 0 or end > total_bytes:
                    raise ValueError(f"tar is cut off: a member needs bytes up to {end}, the file has {total_bytes}")
                if entry.isreg() and not entry.issparse():
                    yield Member(_text(entry.name), entry.offset_data, entry.size)
            end = tar.offset
    except tarfile.TarError as error:
        raise ValueError(f"tar is damaged after byte {end} of {total_bytes}: {error}") from error
    # tarfile stops silently at a header it cannot read; only a block of zeros is an end.
    file.seek(end)
    if file.read(_BLOCK_BYTES) != bytes(_BLOCK_BYTES):
        raise ValueError(f"tar is cut off or damaged at byte {end} of {total_bytes}: no end marker there")


def _text(name: str) -> str:
    """The name without the lone surrogates by which tarfile carries undecodable bytes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
