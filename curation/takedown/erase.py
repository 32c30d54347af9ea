"""Bytes that go: overwritten in the store's own tars, and left out of its index shards.

A tar is changed in place, since tables name the offsets of the other images in it, and so that the blocks on the disk
are those that are overwritten. It stays a sound tar: the member is there, with zeros in it.
"""

import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from curation.neighbours.index import Reader, Tile, read_ids, write_tiles
from curation.store import Store, locate
from curation.whole_files import whole_file

_BLOCK_BYTES = 512
_MAX_RECORD_BYTES = 1 << 20


def erase_image(store: Store, shard: str, offset_bytes: int, size_bytes: int) -> bool:
    """Overwrite an image in a tar of the store, and the record of its URL that follows it.

    Returns:
        Whether the tar is there; where it has gone, so has the image.

    Raises:
        ValueError: the store does not lie on a file system that can change a file in place.
    """
    assert shard.startswith("store:"), f"{shard} is not the store's"
    filesystem, path = locate(store.shard_uri(shard))
    if not isinstance(filesystem, LocalFileSystem):
        raise ValueError(f"{path}: bytes can be overwritten on a local file system only; remove the object by hand")
    if not filesystem.exists(path):
        return False
    with open(path, "r+b") as file:  # noqa: PTH123  (as fsspec has it)
        file.seek(offset_bytes)
        file.write(bytes(size_bytes))
        start, size = _record_after(file, offset_bytes + size_bytes + -size_bytes % _BLOCK_BYTES)
        if size:
            file.seek(start)
            file.write(json.dumps({}).encode().ljust(size))
        file.flush()
        os.fsync(file.fileno())
    return True


def _record_after(file: BinaryIO, position: int) -> tuple[int, int]:
    """Where the JSON member that begins at a position has its bytes, and how many; 0 where none begins there."""
    file.seek(position)
    try:
        entry = tarfile.TarInfo.frombuf(file.read(_BLOCK_BYTES), "utf-8", "surrogateescape")
    except tarfile.HeaderError:  # the end of the archive
        return position, 0
    is_record = entry.name.endswith(".json") and entry.isreg() and 2 <= entry.size <= _MAX_RECORD_BYTES
    return position + _BLOCK_BYTES, entry.size if is_record else 0


def pieces_that_name(store: Store, folder: str, urls: pa.Array) -> list[str]:
    """Paths of what a download has written down of its answers, or of hosts, and that names some URLs."""
    filesystem, root = locate(store.path(folder))
    found = []
    for path in sorted(filesystem.find(root)) if filesystem.isdir(root) else []:
        if not path.endswith(".parquet"):
            continue
        with filesystem.open(path, "rb") as file:
            rows = pq.ParquetFile(file, pre_buffer=False).read(use_threads=False)
        columns = [rows[name] for name in ("url", "final_url") if name in rows.column_names]
        if any(pa.compute.any(pa.compute.is_in(column, urls)).as_py() for column in columns):
            found.append(path)
    return found


def forget_in_index(store: Store, shard: str, images: pa.Array) -> Mapping[int, int]:
    """Write an index shard anew without some images; the others keep their tile.

    Args:
        store: of the index.
        shard: as in the table ``tiles``.
        images: ids that go.

    Returns:
        Rows that each tile has now, by its number. A shard that holds none of the images is left alone.
    """
    uri = store.path(shard)
    stays = [np.asarray(pa.compute.invert(pa.compute.is_in(ids, images))) for ids in read_ids(uri)]
    counts = {number: int(mask.sum()) for number, mask in enumerate(stays)}
    if all(mask.all() for mask in stays):
        return counts
    reader = Reader(keep=1)

    def remaining() -> Iterator[Tile]:
        for number, mask in enumerate(stays):
            tile = reader.read([(uri, number)])
            yield Tile(tile.ids.filter(pa.array(mask)), tile.vectors[mask], tile.lists[mask])

    filesystem, path = locate(uri)
    with whole_file(filesystem, path) as file:
        write_tiles(file, remaining())
    return counts
