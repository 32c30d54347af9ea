"""The records of a WARC file, read on behind whatever is damaged."""

import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal, TypeVar

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from curation.links.bodies import BodyError, Gunzipped, gunzip_start

GZIP = b"\x1f\x8b\x08"
MAX_UNPACKED_BYTES = 64 << 30  # of a file that is compressed as a whole; it is unpacked to a temporary file

_MAX_RESTARTS = 100  # in one file; beyond it the rest of the file is given up
_SNIFFED_BYTES = 4096
_BOUNDARY = re.compile(rb"\x1f\x8b\x08|WARC/[01]\.")
_HEADER = re.compile(rb"WARC/[01]\.[0-9]+\r?\n[A-Za-z-]+:")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Broken:
    """A file or a record that cannot be read, and why."""

    offset: int
    kind: Literal["file", "record"]
    message: str


def results(
    file: BinaryIO, read: Callable[[WarcRecord], "T | Broken | None"]
) -> Iterator[tuple[WarcRecordType | None, "T | Broken | None"]]:
    """What ``read`` makes of every record, with its type, restarting behind each place where the framing is broken.

    Args:
        file: seekable.
        read: whatever it raises makes the record :class:`Broken`.
    """
    if _is_compressed_as_a_whole(file):
        with tempfile.TemporaryFile() as unpacked:
            damage = _unpack(file, unpacked)
            size = unpacked.tell()
            yield from results(unpacked, read)
            if damage is not None:
                yield None, Broken(size, "file", damage)
        return
    position, last_reported = 0, -1
    for _ in range(_MAX_RESTARTS):
        file.seek(position)
        record, last, message = None, None, ""
        result: T | Broken | None = None
        try:
            for record in ArchiveIterator(file, parse_http=False):
                last = record.stream_pos
                result = _result(record, last, read)
                yield record.record_type, result
        except Exception as error:
            message = _sentence(error)
        if message:
            behind = _next_boundary(file, (position if last is None else last) + 1)
            # With a record read, what comes behind it is broken; with none, the place where reading began.
            at = position if last is None else (behind if behind is not None else last)
        else:  # the end of the file, or something that the library takes for it
            at = position if last is None else last
            is_whole = record is not None and not isinstance(result, Broken)
            behind = next_record(file, _least_end(file, at, record) if record is not None and is_whole else at + 1)
            if behind is None:
                return
            message = "followed by bytes that are no record" if is_whole else ""
        if message and at != last_reported:
            yield None, Broken(at, "record", message)
            last_reported = at
        if behind is None:
            return
        position = behind
    yield None, Broken(position, "file", f"given up after {_MAX_RESTARTS} broken places")


def next_record(file: BinaryIO, position: int) -> int | None:
    """Offset at or behind ``position`` where a record's header can be read."""
    for _ in range(_MAX_RESTARTS):
        found = _next_boundary(file, position)
        if found is None:
            return None
        file.seek(found)
        head = file.read(_SNIFFED_BYTES)
        if _HEADER.match(gunzip_start(head, _SNIFFED_BYTES) if head.startswith(GZIP) else head):
            return found
        position = found + 1
    return None


def pass_over(record: WarcRecord) -> None:
    """Read over a record.

    Raises:
        ValueError: it is not all there.
    """
    present = record.consume()
    if present < record.content_length:
        raise truncated(record, present)


def truncated(record: WarcRecord, present: int) -> ValueError:
    """The error of a record of which only ``present`` bytes are there."""
    return ValueError(f"truncated: {present} of {record.content_length} bytes")


def _is_compressed_as_a_whole(file: BinaryIO) -> bool:
    """Whether a gzip member holds more than one record, so that members tell no record's place."""
    file.seek(0)
    if file.read(len(GZIP)) != GZIP:
        return False
    file.seek(0)
    try:
        for count, record in enumerate(ArchiveIterator(file, parse_http=False)):
            if count == 1:
                file.seek(record.stream_pos)
                return file.read(len(GZIP)) != GZIP
    except Exception:  # damage, which is reported where it is met again
        return False
    return False


def _unpack(file: BinaryIO, unpacked: BinaryIO) -> str | None:
    """Write out what is inside a gzip file, up to its damage, which is returned."""
    file.seek(0)
    try:
        shutil.copyfileobj(Gunzipped(file, MAX_UNPACKED_BYTES), unpacked)
    except BodyError as error:
        return str(error)
    return None


def _result(record: WarcRecord, offset: int, read: Callable[[WarcRecord], "T | Broken | None"]) -> "T | Broken | None":
    try:
        return read(record)
    except Exception as error:  # whatever the parsers raise on hostile bytes is the record's fault
        return Broken(offset, "record", _sentence(error))


def _least_end(file: BinaryIO, position: int, record: WarcRecord) -> int:
    """A place in or behind the last bytes of a record, so that what its body quotes is not taken for a record."""
    file.seek(position)
    return position + (1 if file.read(len(GZIP)) == GZIP else max(1, record.content_length))


def _next_boundary(file: BinaryIO, position: int) -> int | None:
    """Offset at or behind ``position`` where a gzip member or a plain WARC header may begin."""
    overlap = 8
    file.seek(position)
    tail = b""
    while block := file.read(1 << 16):
        window = tail + block
        if match := _BOUNDARY.search(window):
            return position - len(tail) + match.start()
        position += len(block)
        tail = window[-overlap:]
    return None


def _sentence(error: Exception) -> str:
    if isinstance(error, zlib.error):
        return "damaged gzip"
    return " ".join(str(error).split())[:200] or type(error).__name__
