"""Where the members of a tar shard lie, so that an image can be read later with one ranged read."""

import io
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, cast

_BLOCK_BYTES = 512
_HEADER_BYTES = 1 << 20  # the longest extended header that is read; a name takes a few hundred


FILE = "file"


class Member(NamedTuple):
    """One member of a tar: its name as data (never to be used as a path), where its bytes lie, and what it is."""

    name: str
    offset_bytes: int
    size_bytes: int
    what: str = FILE  # or why its bytes are not those of a file: "link", "sparse file", "device"


def members(file: BinaryIO, start_bytes: int = 0, size_bytes: int | None = None) -> Iterator[Member]:
    """Members of an uncompressed tar but its folders, in order.

    Args:
        file: a seekable binary file; it may be moved between two members.
        start_bytes: where the tar begins, for one that lies within another; offsets count from the file's start.
        size_bytes: of the tar; None: it ends with the file.

    Raises:
        ValueError: the file is no tar, or it is damaged or cut off. Every whole member before that point has
            been given by then. An archive without its end marker counts as cut off.
    """
    total_bytes = file.seek(0, io.SEEK_END) - start_bytes if size_bytes is None else size_bytes
    window = _Window(file, start_bytes, total_bytes)
    end = 0
    try:
        with tarfile.open(fileobj=cast(BinaryIO, window), mode="r:") as tar:
            while (entry := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # else memory grows with the archive
                end = entry.offset_data + entry.size
                if entry.size < 0 or end > total_bytes:
                    raise tarfile.ReadError(f"a member needs bytes up to {end}")
                if not entry.isdir():
                    yield Member(_text(entry.name), start_bytes + entry.offset_data, entry.size, _what(entry))
            end = tar.offset
    # what tarfile lets through where a header is nonsense: numbers that are none, headers about headers without end
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"tar is damaged or cut off after byte {end} of {total_bytes}: {error}") from error
    # tarfile stops silently at a header it cannot read; only a block of zeros is an end.
    window.seek(end)
    if window.read(_BLOCK_BYTES) != bytes(_BLOCK_BYTES):
        raise ValueError(f"tar is cut off or damaged at byte {end} of {total_bytes}: no end marker there")


class _Window:
    """A part of a file as tarfile reads it, at a place of its own and never more than a header at once."""

    def __init__(self, file: BinaryIO, start_bytes: int, size_bytes: int) -> None:
        self._file, self._start, self._size = file, start_bytes, size_bytes
        self._position = 0

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> int:
        if position < 0:
            raise tarfile.ReadError(f"a header points to byte {position}")
        self._position = position
        return position

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        size = max(0, min(size, self._size - self._position))
        self._file.seek(self._start + self._position)
        data = self._file.read(size)
        self._position += len(data)
        return data


def _what(entry: tarfile.TarInfo) -> str:
    if entry.issym() or entry.islnk():
        return "link"
    if entry.issparse():
        return "sparse file"
    return FILE if entry.isreg() else "device"


def _text(name: str) -> str:
    """The name without the lone surrogates by which tarfile carries undecodable bytes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
