"""Files that are there already, as rows of the ``files`` table: pictures, members of tars, rows of Parquet.

Pictures and tars stay where they are; bytes in Parquet are copied, since its pages are compressed. A unit is whatever
may be a picture. A text beside a picture belongs to it; one by itself is a row that says so, and so is
everything that cannot be read: no file is passed over.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

from curation.images.copies import Copies
from curation.images.ids import image_id, image_id_of
from curation.images.samples import MAX_TEXT_BYTES, About, Kind, about, about_texts, belongs, key, kind, samples, tells
from curation.images.tables import Cell, ImageTable
from curation.images.tars import FILE, Member, members
from curation.schema import Reason

Row = dict[str, Any]
Open = Callable[[str], BinaryIO]
Copy = Callable[[str], Copies]

_MAX_SAMPLE = 100  # members of a tar that are taken for one sample at most
_MAX_DEPTH = 3  # of a tar in a tar in a tar
_ABSENT = (FileNotFoundError, PermissionError, IsADirectoryError)
_SUCCESS = "success"
_REPACK = "compressed, so that nothing in it can be read by range; unpack it, or pack it as a plain .tar"


def imported(source: str, names: Iterable[str], open_file: Open, copy: Copy) -> Iterator[Row]:
    """Identify what lies in the files of a source.

    Args:
        source: name of the source.
        names: of its files, relative to it; those that ``samples`` puts together must come in one call.
        open_file: opens "<source name>:<relative path>". What it raises of a file that is not there, or not ours to
            read, is a row; any other error ends the work, since it says nothing of the file.
        copy: where images of such a file that must be copied go.

    Yields:
        Rows of ``schema.FILES``, at least one for every file, except for texts beside a picture or an archive: those
        are counted in the ``companions`` of its first row. A damaged file yields what is whole and a row for the rest.
    """
    for group in samples(names):
        rows = _group(source, group, open_file, copy)
        kinds = [kind(name) for name in group]
        first = next(rows)
        if set(kinds) - {Kind.OTHER, Kind.ARCHIVE}:
            first["companions"] += kinds.count(Kind.OTHER)
        if Kind.TAR in kinds:
            first["companions"] += kinds.count(Kind.PARQUET)  # its record
        yield first
        yield from rows


def _group(source: str, names: list[str], open_file: Open, copy: Copy) -> Iterator[Row]:
    """The rows of files that go together; a tar before the record that a downloader wrote beside it."""
    by_kind: dict[Kind, list[str]] = {each: [] for each in Kind}
    for name in names:
        by_kind[kind(name)].append(name)
    held: set[str] = set()  # keys of the samples in the tars
    for name in by_kind[Kind.TAR]:
        yield from _of_file(f"{source}:{name}", open_file, lambda file, place: _tar(file, place, place, held))
    known = held if by_kind[Kind.TAR] else None
    for name in by_kind[Kind.PARQUET]:
        yield from _of_file(f"{source}:{name}", open_file, lambda file, place: _table(file, place, copy, known))
    if by_kind[Kind.PICTURE]:
        told = _texts_beside(source, by_kind[Kind.OTHER], open_file)
        for name in by_kind[Kind.PICTURE]:
            yield from _of_file(f"{source}:{name}", open_file, lambda file, place: _picture(file, place, told))
    elif not by_kind[Kind.TAR] and not by_kind[Kind.PARQUET]:
        for name in by_kind[Kind.OTHER]:
            yield _refused(f"{source}:{name}", Reason.NO_PICTURE, "by its name")
    for name in by_kind[Kind.ARCHIVE]:
        yield _refused(f"{source}:{name}", Reason.COMPRESSED_ARCHIVE, _REPACK)


def _of_file(place: str, open_file: Open, read: Callable[[BinaryIO, str], Iterator[Row]]) -> Iterator[Row]:
    try:
        file = open_file(place)
    except _ABSENT as error:
        yield _refused(place, Reason.UNREADABLE, error.strerror)
        return
    with file:
        if file.seek(0, io.SEEK_END) == 0:
            yield _refused(place, Reason.EMPTY_FILE, None)
            return
        file.seek(0)
        yield from read(file, place)


def _picture(file: BinaryIO, place: str, told: About) -> Iterator[Row]:
    digest, size = image_id_of(file)
    yield _row(place, told, image_id=digest, shard=place, offset_bytes=0, size_bytes=size)


def _texts_beside(source: str, names: list[str], open_file: Open) -> About:
    texts = []
    for name in filter(tells, names):
        try:
            with open_file(f"{source}:{name}") as file:
                texts.append((name, file.read(MAX_TEXT_BYTES)))
        except _ABSENT:
            continue
    return about_texts(texts)


def _tar(
    file: BinaryIO,
    place: str,
    shard: str,
    held: set[str],
    start: int = 0,
    size: int | None = None,
    depth: int = 1,
) -> Iterator[Row]:
    """The rows of a tar's members; ``held`` takes up the keys of its samples."""
    end, empty = start, True
    try:
        for sample in _adjacent(members(file, start, size)):
            empty, end = False, sample[-1].offset_bytes + sample[-1].size_bytes
            held.add(key(sample[0].name).rpartition("/")[2])
            yield from _sample(file, place, shard, sample, depth)
    except ValueError as error:
        total = file.seek(0, io.SEEK_END) - start if size is None else size
        where = {"shard": shard, "offset_bytes": end, "size_bytes": start + total - end}
        yield _refused(f"{place}#damaged-from-{end}", Reason.BROKEN_FILE, str(error), **where)
        return
    if empty:
        yield _refused(place, Reason.NO_PICTURE, "a tar without files")


def _adjacent(found: Iterator[Member]) -> Iterator[list[Member]]:
    """Members that follow each other and have one key, as WebDataset groups them."""
    sample: list[Member] = []
    try:
        for member in found:
            if sample and (len(sample) == _MAX_SAMPLE or key(member.name) != key(sample[0].name)):
                yield sample
                sample = []
            sample.append(member)
    except ValueError:
        if sample:
            yield sample
        raise
    if sample:
        yield sample


def _sample(file: BinaryIO, place: str, shard: str, sample: list[Member], depth: int) -> Iterator[Row]:
    files = [member for member in sample if member.what == FILE]
    others = [member for member in files if kind(member.name) is Kind.OTHER]
    pictures = [member for member in files if kind(member.name) is Kind.PICTURE and member.size_bytes]
    texts = _texts_within(file, others) if pictures else []
    companions = len(others)
    for member in sample:
        name, what = f"{place}#{member.name}", kind(member.name)
        where = {"shard": shard, "offset_bytes": member.offset_bytes, "size_bytes": member.size_bytes}
        if member in others and pictures:
            continue
        if member.what != FILE:
            yield _refused(name, Reason.NO_PICTURE, f"a {member.what} within a tar", **where)
        elif member.size_bytes == 0:
            yield _refused(name, Reason.EMPTY_FILE, None, **where)
        elif what is Kind.PICTURE:
            file.seek(member.offset_bytes)
            digest, size = image_id_of(file, member.size_bytes)
            if size < member.size_bytes:
                raise OSError(f"{shard}: the file became shorter while it was read; run again when it is whole")
            told = about_texts(text for text in texts if belongs(text[0], member.name))
            yield _row(name, told, image_id=digest, companions=companions, **where)
            companions = 0
        elif what is Kind.TAR and depth < _MAX_DEPTH:
            inner = (member.offset_bytes, member.size_bytes, depth + 1)
            yield from _tar(file, name, shard, set(), *inner)
        elif what is Kind.ARCHIVE:
            yield _refused(name, Reason.COMPRESSED_ARCHIVE, _REPACK, **where)
        else:
            detail = "by its name" if what is Kind.OTHER else f"a {what.value} file within a tar is not opened"
            yield _refused(name, Reason.NO_PICTURE, detail, **where)


def _texts_within(file: BinaryIO, others: list[Member]) -> list[tuple[str, bytes]]:
    texts = []
    for member in others:
        if tells(member.name) and member.size_bytes <= MAX_TEXT_BYTES:
            file.seek(member.offset_bytes)
            texts.append((member.name, file.read(member.size_bytes)))
    return texts


def _table(file: BinaryIO, place: str, copy: Copy, held: set[str] | None) -> Iterator[Row]:
    """The rows of a Parquet file: images are copied; ``held`` are the keys that the tar beside it holds, if one is."""
    try:
        table = ImageTable(file)
    except ValueError as error:
        yield _refused(place, Reason.BROKEN_FILE, str(error))
        return
    if not table.images and not table.is_record:
        columns = ", ".join(table.columns)[:200]
        yield _refused(place, Reason.NO_PICTURE, f"no column of image bytes among {columns}")
        return
    row, empty = -1, held is None
    with copy(place) as copies:
        try:
            for cell in table.cells():
                row = cell.row
                for found in _cell(cell, place, copies, held):
                    empty = False
                    yield found
        except ValueError as error:  # the copies made so far stay
            empty = False
            yield _refused(f"{place}#damaged-from-{row + 1}", Reason.BROKEN_FILE, str(error))
    if empty:
        yield _refused(place, Reason.NO_PICTURE, "a record of downloads that all succeeded" if row >= 0 else "no rows")


def _cell(cell: Cell, place: str, copies: Copies, held: set[str] | None) -> Iterator[Row]:
    name = f"{place}#{cell.row}" if cell.column is None else f"{place}#{cell.column}/{cell.row}"
    status = cell.values.get("status", _SUCCESS)
    told = about(cell.values)
    if cell.data:
        shard, offset = copies.add(cell.data)
        where = {"shard": shard, "offset_bytes": offset, "size_bytes": len(cell.data)}
        yield _row(name, told, image_id=image_id(cell.data), **where)
    elif status != _SUCCESS:
        error = cell.values.get("error_message", "")
        yield _row(name, told, reason=Reason.NOT_DOWNLOADED.value, detail=f"{status}: {error}".rstrip(": ")[:200])
    elif cell.column is not None:
        yield _row(name, told, reason=Reason.EMPTY_FILE.value, detail="the row has no bytes")
    elif held is not None and "key" in cell.values and cell.values["key"] not in held:
        lost = f"recorded as {_SUCCESS}, but the tar does not hold {cell.values['key']}"[:200]
        yield _row(name, told, reason=Reason.NOT_DOWNLOADED.value, detail=lost)


def _refused(path: str, reason: Reason, detail: str | None, **where: Any) -> Row:
    return _row(path, About(), reason=reason.value, detail=detail, **where)


def _row(path: str, told: About, **columns: Any) -> Row:
    row = {"image_id": None, "url": told.url, "path": path, "shard": None, "offset_bytes": None, "size_bytes": None}
    told_too = {"page_url": told.page_url, "domain": told.domain, "caption": told.caption}
    return {**row, **told_too, "companions": 0, "reason": None, "detail": None, **columns}
