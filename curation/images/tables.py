"""Parquet files with the bytes of images, or with what a downloader recorded of them."""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

# names of columns of bytes that are images; a struct with ``bytes`` (Hugging Face's) may have any name
_IMAGE_COLUMNS = {
    "avif", "bmp", "bytes", "content", "gif", "image", "image_bytes", "img", "img_bytes", "jpeg", "jpg", "photo",
    "picture", "png", "tif", "tiff", "webp",
}  # fmt: skip
_RECORD_COLUMNS = {
    "alt", "alt_text", "caption", "error_message", "image_url", "img_url", "key", "page", "page_url", "status",
    "text", "txt", "url",
}  # fmt: skip
_BATCH_ROWS = 16


class Cell(NamedTuple):
    """One image of a table, or one row of a record.

    Attributes:
        row: number of the row, from 0.
        column: where the bytes were; None in a table without image columns.
        data: None where the cell is null.
        values: the row's texts by column name.
    """

    row: int
    column: str | None
    data: bytes | None
    values: dict[str, str]


class ImageTable:
    """One Parquet file, opened.

    Args:
        file: a seekable binary file.

    Attributes:
        images: the columns that hold image bytes; none in a mere record.
        is_record: whether it tells of every row if its download succeeded, as img2dataset's do.

    Raises:
        ValueError: the file is no Parquet file, its footer is damaged, or two columns that matter have one name.
    """

    def __init__(self, file: BinaryIO) -> None:
        with _Damage("no Parquet file, or its footer is damaged"):
            # pre_buffer reads by threads, which may outlive the process; with a buffer_size, a damaged length in a
            # small file asks for gigabytes. So a row group's column is held at once
            self._parquet = pq.ParquetFile(file, pre_buffer=False, page_checksum_verification=True)
            schema = self._parquet.schema_arrow
        self.columns = [f"{field.name}: {_short(field.type)}" for field in schema]
        self.images = tuple(field.name for field in schema if _holds_images(field))
        self._texts = [f.name for f in schema if f.name.lower() in _RECORD_COLUMNS and _is_text(f.type)]
        self.is_record = "status" in self._texts
        for name in (*self.images, *self._texts):
            if schema.names.count(name) > 1:
                raise ValueError(f"two columns are called {name!r}; rename one")

    def cells(self) -> Iterator[Cell]:
        """Every image in every row, in order; of a record every row.

        Raises:
            ValueError: the file is damaged; every cell before has been given by then.
        """
        row = 0
        with _Damage("damaged"):
            batches = self._parquet.iter_batches(_BATCH_ROWS, columns=[*self.images, *self._texts], use_threads=False)
        while True:
            with _Damage(f"damaged after row {row}"):
                batch = next(batches, None)
                if batch is None:
                    break
                texts = {name: _decoded(batch.column(name)) for name in self._texts}
                bodies = {name: _bodies(batch.column(name)) for name in self.images}
            for i in range(batch.num_rows):
                values = {name: text for name in texts if (text := texts[name][i]) is not None}
                for column in self.images:
                    yield Cell(row + i, column, bodies[column][i], values)
                if not self.images:
                    yield Cell(row + i, None, None, values)
            row += batch.num_rows


class _Damage:
    """Says of what Arrow raises over a malformed file that the file is damaged; a disk that fails is another matter."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        of_the_disk = isinstance(error, OSError) and error.errno is not None
        if isinstance(error, (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError)) and not of_the_disk:
            raise ValueError(f"{self._what}: {' '.join(str(error).split())[:200]}") from error


def _holds_images(field: pa.Field) -> bool:
    if pa.types.is_struct(field.type):
        names = [inner.name for inner in field.type]
        return names.count("bytes") == 1 and _is_bytes(field.type.field("bytes").type)
    return field.name.lower() in _IMAGE_COLUMNS and _is_bytes(field.type)


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_text(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value))


def _bodies(column: pa.Array) -> list[bytes | None]:
    bodies: list[bytes | None] = (
        pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
    ).to_pylist()
    return bodies


def _decoded(column: pa.Array) -> list[str | None]:
    """The texts of a column; Parquet does not promise that they are UTF-8."""
    plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    raw = plain.cast(pa.large_binary()).to_pylist()
    return [None if text is None else text.decode("utf-8", "replace") for text in raw]


def _short(kind: pa.DataType) -> str:
    text = str(kind)
    return text if len(text) <= 40 else f"{text[:37]}..."
