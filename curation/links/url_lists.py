"""Lists of image URLs: Parquet, CSV, JSON lines and plain text."""

import csv
import io
import itertools
import json
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from curation.links.bodies import BodyError, Gunzipped
from curation.links.charset import without_surrogates
from curation.links.elements import MAX_ALT_CHARS
from curation.links.pages import Broken

MAX_LINE_CHARS = 1 << 20
MAX_ROW_LINES = 100  # of CSV
MAX_UNPACKED_BYTES = 64 << 30  # of one list; it is read as a stream, so this is about time and rows, not memory
SUFFIXES = (".parquet", ".csv", ".jsonl", ".ndjson", ".txt")

_SWALLOWED_ROW = re.compile(r'\n(?:[^\n]*,)?"?[a-z]+://', re.IGNORECASE)
_GZIP = b"\x1f\x8b"
_ALT_COLUMNS = ("caption", "alt", "text")


@dataclass(frozen=True, slots=True)
class UrlRow:
    """One row of a URL list: the URL as written, its caption or None, and its row number from 0."""

    url: str
    alt: str | None
    row: int


def read_url_list(file: BinaryIO, name: str) -> Iterator[UrlRow | Broken]:
    """Read one list; a row that cannot be read is a :class:`Broken` whose offset is the row number.

    Args:
        file: seekable, at its start; all but Parquet may be compressed with gzip, whatever the name says.
        name: its suffix (a last ``.gz`` is overlooked) tells the format. CSV has a header with a ``url`` column,
            and ``caption``, ``alt`` or ``text`` where there are captions, or is a single column of URLs. JSON
            lines have the same keys. Text has one URL a line; empty lines and lines that begin with # are no rows.

    Raises:
        ValueError: another suffix, or no ``url`` column (the message names those there).
    """
    plain_name = name.lower().removesuffix(".gz")
    if plain_name.endswith(".parquet"):
        return _parquet(file, name)
    if plain_name.endswith(".csv"):
        return _until_damaged(_csv(_unpacked(file), name))
    if plain_name.endswith((".jsonl", ".ndjson")):
        return _until_damaged(_json_lines(_unpacked(file), name))
    if plain_name.endswith(".txt"):
        return _until_damaged(_text(_unpacked(file)))
    raise ValueError(f"{name}: not a URL list; the formats are {', '.join(SUFFIXES)}")


def _unpacked(file: BinaryIO) -> BinaryIO:
    is_gzip = file.read(len(_GZIP)) == _GZIP
    file.seek(0)
    return io.BufferedReader(Gunzipped(file, MAX_UNPACKED_BYTES)) if is_gzip else file


def _until_damaged(rows: Iterator[UrlRow | Broken]) -> Iterator[UrlRow | Broken]:
    """The rows, up to where the compression ends in damage; that is reported behind the last."""
    row = 0
    try:
        for item in rows:
            yield item
            row = (item.row if isinstance(item, UrlRow) else item.offset) + 1
    except BodyError as error:
        yield Broken(row, "file", str(error))


def _parquet(file: BinaryIO, name: str) -> Iterator[UrlRow | Broken]:
    if file.read(len(_GZIP)) == _GZIP:
        yield Broken(0, "file", "Parquet inside gzip is not read; unpack it")
        return
    try:
        file.seek(0)
        table = pq.ParquetFile(file, pre_buffer=False)  # which is done by threads
    except (pa.ArrowException, OSError) as error:
        yield Broken(0, "file", f"not a Parquet file: {_sentence(error)}")
        return
    url_column, alt_column = _columns(table.schema_arrow.names, name)
    wanted = [column for column in (url_column, alt_column) if column is not None]
    for column in wanted:
        if table.schema_arrow.names.count(column) > 1:
            yield Broken(0, "file", f"several columns are called {column[:40]!r}; rename all but one")
            return
    row = 0
    try:
        for batch in table.iter_batches(columns=wanted, use_threads=False):
            urls = _values(batch.column(url_column))
            alts = _values(batch.column(alt_column)) if alt_column else itertools.repeat(None)
            for url, alt in zip(urls, alts, strict=False):
                yield _row(url, alt, row)
                row += 1
    except (pa.ArrowException, OSError) as error:
        yield Broken(row, "file", f"damaged Parquet: {_sentence(error)}")


def _values(column: pa.Array) -> list[object]:
    """A column's values; bytes in a column of text that are not UTF-8 become U+FFFD."""
    try:
        values: list[object] = column.to_pylist()
    except UnicodeDecodeError:
        values = [value and value.decode("utf-8", "replace") for value in column.cast(pa.large_binary()).to_pylist()]
    return values


def _csv(file: BinaryIO, name: str) -> Iterator[UrlRow | Broken]:
    lines = _RowLines(_without_nul(_lines(file)))
    reader = csv.reader(lines)
    try:
        header = next(reader, None)
    except csv.Error as error:
        yield Broken(0, "file", f"header: {_sentence(error)}")
        return
    if header is None:
        yield Broken(0, "file", "empty file")
        return
    if len(header) == 1 and "://" in header[0]:  # a single column without a header
        lines.read_again(0)
        url_at, alt_at = 0, None
    else:
        url_column, alt_column = _columns(header, name)
        url_at, alt_at = header.index(url_column), header.index(alt_column) if alt_column else None
    for row in itertools.count():
        lines.begin_row()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield Broken(row, "record", _sentence(error))
            lines.read_again(1)
            continue
        if cells is None:
            return
        if any(map(_SWALLOWED_ROW.search, cells)):
            yield Broken(row, "record", "a quote that is not closed: there are other rows behind it")
            lines.read_again(1)
        elif len(cells) <= url_at:
            yield Broken(row, "record", "row without a URL")
        else:
            yield _row(cells[url_at], cells[alt_at] if alt_at is not None and alt_at < len(cells) else None, row)


def _json_lines(file: BinaryIO, name: str) -> Iterator[UrlRow | Broken]:
    seen_url = False
    for row, line in enumerate(_lines(file)):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield Broken(row, "record", f"not JSON: {_sentence(error)}")
            continue
        if not isinstance(value, dict):
            yield Broken(row, "record", "not a JSON object")
            continue
        try:
            url_column, alt_column = _columns(list(value), name)
        except ValueError:
            if not seen_url:
                raise
            yield Broken(row, "record", "row without a URL")
            continue
        seen_url = True
        yield _row(value[url_column], value[alt_column] if alt_column else None, row)


def _text(file: BinaryIO) -> Iterator[UrlRow | Broken]:
    for row, line in enumerate(_lines(file)):
        if line.strip() and not line.startswith("#"):
            yield _row(line, None, row)


def _columns(names: list[str], name: str) -> tuple[str, str | None]:
    """The columns of URLs and captions, whatever their case."""
    known = {column.strip().lower(): column for column in reversed(names)}
    if "url" not in known:
        shown = ", ".join(repr(column[:40]) for column in names[:20]) or "none"
        raise ValueError(f"{name}: no column 'url'; the columns there are {shown}. Rename the one that holds URLs")
    return known["url"], next((known[column] for column in _ALT_COLUMNS if column in known), None)


def _row(url: object, alt: object, row: int) -> UrlRow | Broken:
    if not isinstance(url, str) or not url.strip():
        return Broken(row, "record", "row without a URL")
    if len(url) > MAX_LINE_CHARS:
        return Broken(row, "record", f"longer than {MAX_LINE_CHARS} characters")
    caption = without_surrogates(" ".join(alt.split())[:MAX_ALT_CHARS]) if isinstance(alt, str) else ""
    return UrlRow(url.strip(), caption or None, row)


def _lines(file: BinaryIO) -> Iterator[str]:
    """Lines of text in bounded memory: a line above the cap comes in pieces."""
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline=None)
    try:
        while line := text.readline(MAX_LINE_CHARS + 1):
            yield line.rstrip("\n")
    finally:
        text.detach()  # the file belongs to the caller


class _RowLines:
    """The lines that the CSV reader takes, of which those of its last row can be given again.

    Args:
        lines: of the file.
    """

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._row: list[str] = []
        self._again: deque[str] = deque()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if len(self._row) == MAX_ROW_LINES:
            raise csv.Error(f"row of more than {MAX_ROW_LINES} lines")
        line = self._again.popleft() if self._again else next(self._lines)
        self._row.append(line)
        return line

    def begin_row(self) -> None:
        """Forget the lines of the last row."""
        self._row = []

    def read_again(self, first: int) -> None:
        """Give the lines of the last row again, from its line ``first`` on."""
        self._again.extendleft(reversed(self._row[first:]))
        self._row = []


def _without_nul(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        yield line.replace("\0", "�") + "\n"


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
