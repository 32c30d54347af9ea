"""Pieces of work that land as whole files, so that what a killed run has finished is not done again."""

import contextlib
import io
import uuid
from collections.abc import Callable, Iterator
from typing import BinaryIO

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from curation.store import locate

_PARTIAL = ".part"


@contextlib.contextmanager
def whole_file(filesystem: fsspec.AbstractFileSystem, path: str) -> Iterator[BinaryIO]:
    """A file that appears under its name when it is complete, or not at all."""
    folder, _, name = path.rpartition("/")
    partial = f"{folder}/.{name}.{uuid.uuid4().hex}{_PARTIAL}"  # of this attempt: another one may still be writing
    try:
        with filesystem.open(partial, "wb") as file:
            yield file
        filesystem.mv(partial, path)
    except BaseException:
        if filesystem.exists(partial):
            filesystem.rm(partial)
        raise


def landed(path: str, key: str, wanted: list[str], make: Callable[[], pa.Table]) -> pa.Table:
    """The piece at ``path``, made now unless it is there.

    Args:
        path: of a Parquet file, local or an fsspec URI.
        key: the column that says what the rows are about.
        wanted: its values, in order; a piece about anything else is made again.
        make: gives the rows, in the order of ``wanted``.
    """
    filesystem, place = locate(path)
    if filesystem.exists(place):
        with filesystem.open(place, "rb") as file:
            # without Arrow's threads, which may outlive the interpreter
            found = pq.ParquetFile(io.BytesIO(file.read()), pre_buffer=False).read(use_threads=False)
        if found.column(key).to_pylist() == wanted:
            return found
    made = make()
    filesystem.makedirs(place.rpartition("/")[0], exist_ok=True)
    with whole_file(filesystem, place) as file:
        pq.write_table(made, file, compression="zstd")
    return made


def remove_partial(folder: str) -> None:
    """Remove what killed attempts left half-written in a folder."""
    filesystem, root = locate(folder)
    if not filesystem.exists(root):
        return
    for path in filesystem.ls(root, detail=False):
        name = path.rpartition("/")[2]
        if name.startswith(".") and name.endswith(_PARTIAL):
            filesystem.rm(path)
