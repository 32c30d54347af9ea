"""One shard: a POSIX ustar archive in the WebDataset layout, byte for byte a function of its samples.

Each sample is two members, ``<image_id>.<extension>`` with the encoded bytes and ``<image_id>.json`` with canonical
JSON metadata. Owner, mode and time are constants, so the same samples give the same archive everywhere.
"""

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol

from curation.release.canonical import canonical_json

BLOCK_BYTES = 512
END = bytes(2 * BLOCK_BYTES)
_MAX_MEMBER_BYTES = 8**11 - 1  # what ustar's octal size field can say
_IMAGE_ID = re.compile(r"[0-9a-f]{32}")
_EXTENSION = re.compile(r"(?!json$)[a-z0-9]{1,8}")


class Sample(NamedTuple):
    """One image to be written."""

    image_id: str
    extension: str
    data: bytes
    metadata: dict[str, Any]
    sha256: str | None = None  # of the data, hex, where somebody knows it: bytes are hashed once


class Member(NamedTuple):
    """Where one image lies in its shard, and what it and its metadata hash to."""

    member: str
    offset_bytes: int  # of the encoded bytes, not of the header before them
    size_bytes: int
    sha256: str  # of the bytes as released
    metadata_sha256: str  # of the JSON member that follows


class Writable(Protocol):
    """Whatever takes bytes in order."""

    def write(self, data: bytes, /) -> int:
        """Take all of ``data``."""


class Readable(Protocol):
    """Whatever can be read in order."""

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes."""


class Entry(NamedTuple):
    """One member as it is read back."""

    name: str
    offset_bytes: int
    data: bytes


class DamagedShardError(ValueError):
    """The archive is not what ``write_shard`` writes; ``member`` is the one it broke in, where its name can be read."""

    def __init__(self, message: str, member: str | None) -> None:
        super().__init__(message)
        self.member = member


def write_shard(file: Writable, samples: Iterable[tuple[Any, ...]]) -> list[Member]:
    """Write samples as one tar, in the order given.

    Args:
        file: opened for writing.
        samples: the fields of a :class:`Sample` each; streamed, so that no more than one image is held.

    Returns:
        One entry a sample, in order.

    Raises:
        ValueError: an id or extension that cannot name a member, or an image of 8 GiB or more.
    """
    members: list[Member] = []
    position = 0
    for image_id, extension, data, metadata, sha256 in itertools.starmap(Sample, samples):
        if not _IMAGE_ID.fullmatch(image_id):
            raise ValueError(f"image id {image_id!r} is not 32 lowercase hex digits")
        if not _EXTENSION.fullmatch(extension):
            raise ValueError(f"{image_id}: extension {extension!r} is not 1 to 8 of a-z and 0-9, or is json")
        name = f"{image_id}.{extension}"
        text = canonical_json(metadata)
        file.write(header(name, len(data)))
        file.write(data)
        file.write(_padding(len(data)) + header(f"{image_id}.json", len(text)) + text + _padding(len(text)))
        members.append(Member(name, position + BLOCK_BYTES, len(data), sha256 or _sha256(data), _sha256(text)))
        position += 2 * BLOCK_BYTES + _padded(len(data)) + _padded(len(text))
    file.write(END)
    return members


def read_entries(file: Readable, size_bytes: int) -> Iterator[Entry]:
    """Read a shard's members strictly in order: every byte of the archive must be one that ``write_shard`` writes.

    Args:
        file: opened for reading.
        size_bytes: of the whole file, so that a damaged size field cannot ask for more memory than that.

    Raises:
        DamagedShardError: a header, a padding or the end differs from what belongs there, or the file is cut.
    """
    position = 0
    while (block := file.read(BLOCK_BYTES)) != bytes(BLOCK_BYTES):
        name, size = _parse(block, position)
        if position + BLOCK_BYTES + _padded(size) > size_bytes:
            raise DamagedShardError(f"cut short within {name}: the file ends at byte {size_bytes}", name)
        data = file.read(size)
        if any(file.read(len(_padding(size)))):
            raise DamagedShardError(f"bytes after the end of {name} that are not padding", name)
        yield Entry(name, position + BLOCK_BYTES, data)
        position += BLOCK_BYTES + _padded(size)
    rest = file.read(BLOCK_BYTES + 1)
    if rest != END[BLOCK_BYTES:]:
        raise DamagedShardError(f"the end mark at byte {position} is cut or followed by other bytes", None)


def header(name: str, size_bytes: int) -> bytes:
    """The 512-byte ustar header of a regular file: mode 0644, owner 0, time 0.

    Raises:
        ValueError: the size does not fit the field.
    """
    if size_bytes > _MAX_MEMBER_BYTES:
        raise ValueError(f"{name}: {size_bytes} bytes; a tar member holds at most {_MAX_MEMBER_BYTES}")
    before = (
        name.encode().ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % size_bytes + b"0" * 11 + b"\0"
    )
    after = b"0" + bytes(100) + b"ustar\x0000"
    checksum = sum(before) + sum(after) + 8 * ord(" ")  # its own field counts as blanks
    return (before + b"%06o\0 " % checksum + after).ljust(BLOCK_BYTES, b"\0")


def _parse(block: bytes, position: int) -> tuple[str, int]:
    if len(block) < BLOCK_BYTES:
        raise DamagedShardError(f"cut short at byte {position + len(block)}", None)
    try:
        name = block[:100].rstrip(b"\0").decode("ascii")
        size = int(block[124:135], 8)
        same = size >= 0 and header(name, size) == block
    except ValueError:
        same = False
    if not same:
        raise DamagedShardError(f"the header at byte {position} is damaged", None)
    return name, size


def _padded(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def _padding(size: int) -> bytes:
    return bytes(-size % BLOCK_BYTES)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
