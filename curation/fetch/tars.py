"""WebDataset tars whose bytes depend on nothing but their members."""

import tarfile
from typing import BinaryIO

_BLOCK_BYTES = 512

_MAGIC = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tif"),
    (b"MM\0*", "tif"),
)


class TarWriter:
    """Appends members without owners, modes or times of their own.

    Args:
        file: open for writing at its start; it stays open.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._position = 0

    def add(self, name: str, data: bytes) -> int:
        """Append one file and return the byte offset of its data.

        Args:
            name: ASCII, at most 100 characters.
            data: its content.
        """
        member = tarfile.TarInfo(name)
        member.size = len(data)
        member.mode = 0o644
        header = member.tobuf(tarfile.USTAR_FORMAT)
        assert len(header) == _BLOCK_BYTES, name
        padding = bytes(-len(data) % _BLOCK_BYTES)
        offset = self._position + len(header)
        self._file.write(header)
        self._file.write(data)
        self._file.write(padding)
        self._position = offset + len(data) + len(padding)
        return offset

    def close(self) -> None:
        """Write the end mark: two empty blocks, filled up to a full tar record."""
        end = self._position + 2 * _BLOCK_BYTES
        self._file.write(bytes(end + -end % tarfile.RECORDSIZE - self._position))


def extension(data: bytes) -> str:
    """A file extension for encoded bytes by their first few; "bin" where they are of no known image format."""
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis"):
        return "avif"
    return "bin"
