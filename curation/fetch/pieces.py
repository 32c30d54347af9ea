"""Pieces of work that land as whole files, so that what a killed run has finished is not done again."""

import io
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq

from curation.store import locate
from curation.whole_files import is_partial, whole_file


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
        if is_partial(path.rpartition("/")[2]):
            filesystem.rm(path)
