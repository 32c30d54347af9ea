"""Parquet files with encoded images in a column of bytes."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

MAX_HELD_BYTES = 256 * 2**20  # of decoded row groups, in each worker


class Parquet:
    """Encoded images by position: file by file in the order of their paths, row by row.

    Only footers are read at first. An image is read with its row group, the least that Parquet gives; as many groups as
    fit in ``MAX_HELD_BYTES`` stay in memory, those read last. A shuffled order seldom comes back to one, so
    groups of some 100 images read fast, groups of many thousands do not.

    Args:
        root: what paths are told relative to.
        files: Parquet below it, sorted.
        field: the column, as in ``image.bytes``; without it, the only one of bytes.

    Raises:
        ValueError: a file is missing or is not Parquet, the column is not there or not told, a row group is too large.
    """

    def __init__(self, root: Path, files: Sequence[Path], field: str | None = None) -> None:
        self.root, self._files = root, [str(file) for file in files]
        sha, self._groups, rows = hashlib.sha256(), [], [0]  # groups: (file, group of the file)
        for number, file in enumerate(files):
            metadata = _metadata(file)
            column, field = _column(file, metadata, field)
            sha.update(f"{file.relative_to(root).as_posix()}\n{field}\n".encode())
            for group in range(metadata.num_row_groups):
                part = metadata.row_group(group).column(column)
                if part.total_uncompressed_size > MAX_HELD_BYTES:
                    raise ValueError(
                        f"{file}: row group {group} has {part.total_uncompressed_size:,} bytes in {field}, and reading "
                        f"an image reads its whole group, so at most {MAX_HELD_BYTES:,} are taken; write it with "
                        "row_group_size=100"
                    )
                rows.append(metadata.row_group(group).num_rows)
                self._groups.append((number, group))
                sha.update(f"{rows[-1]} {part.total_uncompressed_size} {part.total_compressed_size}\n".encode())
        self._field = field
        self._starts = np.cumsum(rows)
        self._fingerprint = sha.hexdigest()
        self._held: OrderedDict[int, pa.ChunkedArray] = OrderedDict()  # by group, the one read last at the end

    def __len__(self) -> int:
        """Number of rows."""
        return int(self._starts[-1])

    def read(self, position: int) -> bytes:
        """The encoded bytes of one image; empty where the row has none."""
        group = self._group(position)
        if group not in self._held:
            self._hold(group)
        self._held.move_to_end(group)
        return self._held[group][position - int(self._starts[group])].as_py() or b""

    def name(self, position: int) -> str:
        """Where an image lies, for a message."""
        group = self._group(position)
        file, number = self._groups[group]
        return f"{self._files[file]}, row group {number}, row {position - int(self._starts[group])}"

    def fingerprint(self) -> str:
        """SHA-256 (hex) over the names of files, and the rows and bytes of their groups."""
        return self._fingerprint

    def merkle_root(self) -> str | None:
        """None: nobody computed one."""
        return None

    def _group(self, position: int) -> int:
        return int(np.searchsorted(self._starts, position, side="right")) - 1

    def _hold(self, group: int) -> None:
        file, number = self._groups[group]
        with pq.ParquetFile(self._files[file]) as parquet:
            table = parquet.read_row_group(number, columns=[self._field], use_threads=False)
        column = table.column(0)
        while pa.types.is_struct(column.type):  # image.bytes is the field bytes of the column image
            column = pc.struct_field(column, 0)
        size = column.nbytes
        while self._held and sum(held.nbytes for held in self._held.values()) + size > MAX_HELD_BYTES:
            self._held.popitem(last=False)
        self._held[group] = column

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": OrderedDict()}  # each process reads for itself


def _metadata(file: Path) -> pq.FileMetaData:
    try:
        return pq.read_metadata(file)
    except FileNotFoundError:
        raise ValueError(f"{file}: no such file; copy it again, or leave it out of data.release") from None
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{file}: is no whole Parquet file ({error}); copy it again") from error


def _column(file: Path, metadata: pq.FileMetaData, field: str | None) -> tuple[int, str]:
    """Number and path of the column of images."""
    columns = [metadata.schema.column(i) for i in range(metadata.num_columns)]
    of_bytes = {
        column.path: number
        for number, column in enumerate(columns)
        if column.physical_type == "BYTE_ARRAY"
        and column.logical_type.type == "NONE"
        and column.max_repetition_level == 0
    }
    told = ", ".join(of_bytes) or "none"
    if field is None and len(of_bytes) != 1:
        raise ValueError(
            f"{file}: has {len(of_bytes)} columns of bytes ({told}); name one, as in data.field=image.bytes"
        )
    name = next(iter(of_bytes)) if field is None else field
    if name not in of_bytes:
        raise ValueError(f"{file}: data.field = {name!r}: its columns of bytes are {told}; name one of those")
    return of_bytes[name], name
