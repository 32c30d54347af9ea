"""Index shards: the vectors of a snapshot in Arrow IPC files, cut into tiles that a join reads one by one.

A tile is a record batch: at most :data:`TILE_ROWS` vectors of one list, by ascending image id, each with all the
lists it is in. A vector lies once in each of its lists; in an exact index there is one list. Readers map a local shard
into memory and read ranges of any other, so a task touches no more than the tiles it was told of.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.fs
from fsspec.implementations.local import LocalFileSystem

from curation.store import locate

TILE_ROWS = 4096  # a product of two tiles is 64 MiB of float32, and 17 GFLOP at 512 dimensions
_OPEN_SHARDS = 16

TileKey = tuple[str, int]  # URI of a shard, number of the record batch


@dataclass(frozen=True)
class IndexKey:
    """What an index is of: vectors of other models or lists are never compared.

    Attributes:
        model: digest of the model.
        codebook: digest of the quantiser; empty for an exact index.
        spill: lists a vector is in.
    """

    model: str
    codebook: str = ""
    spill: int = 1

    @property
    def digest(self) -> str:
        """Name of the index: 32 hex digits."""
        return hashlib.sha256(f"{self.model}\0{self.codebook}\0{self.spill}".encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Tile:
    """Vectors of one list, or several such tiles one after the other.

    Attributes:
        ids: [n] strings.
        vectors: [n, d] float16.
        lists: [n, m] int32: all lists of each vector, the nearest, its home, first.
    """

    ids: pa.Array
    vectors: np.ndarray
    lists: np.ndarray

    def __len__(self) -> int:
        return len(self.vectors)

    @classmethod
    def concatenate(cls, tiles: "Sequence[Tile]") -> "Tile":
        """The rows of all tiles in their order."""
        if len(tiles) == 1:
            return tiles[0]
        return cls(
            pa.concat_arrays([tile.ids for tile in tiles]),
            np.concatenate([tile.vectors for tile in tiles]),
            np.concatenate([tile.lists for tile in tiles]),
        )


def shard_schema(dim: int, num_lists_each: int) -> pa.Schema:
    """Columns of an index shard."""
    return pa.schema(
        [
            pa.field("image_id", pa.string()),
            pa.field("vector", pa.binary(2 * dim)),  # little-endian float16
            pa.field("lists", pa.binary(4 * num_lists_each)),  # little-endian int32, the nearest first
        ]
    )


def write_tiles(file: BinaryIO, tiles: Iterable[Tile]) -> None:
    """Write tiles as the record batches of one Arrow IPC file.

    Args:
        file: open for writing.
        tiles: at least one, all of one shape.
    """
    writer: pa.RecordBatchFileWriter | None = None
    for tile in tiles:
        schema = shard_schema(tile.vectors.shape[1], tile.lists.shape[1])
        if writer is None:
            writer = pa.ipc.new_file(file, schema)
        columns = [tile.ids.cast(pa.string()), _binary(tile.vectors.astype("<f2")), _binary(tile.lists.astype("<i4"))]
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    assert writer is not None, "a shard holds at least one tile"
    writer.close()


class Reader:
    """Reads tiles from any number of shards; the few read last are kept, as joins take one tile against many.

    Args:
        keep: tiles that are kept.
    """

    def __init__(self, keep: int = 2) -> None:
        self._keep = keep
        self._tiles: OrderedDict[tuple[TileKey, ...], Tile] = OrderedDict()
        self._shards: OrderedDict[str, Any] = OrderedDict()

    def read(self, keys: Iterable[TileKey]) -> Tile:
        """The rows of some tiles as one.

        Raises:
            OSError: a shard is not there, or is not what was written.
        """
        key = tuple(keys)
        if key not in self._tiles:
            while len(self._tiles) >= self._keep:
                self._tiles.popitem(last=False)
            self._tiles[key] = Tile.concatenate([self._read_one(each) for each in key])
        self._tiles.move_to_end(key)
        return self._tiles[key]

    def _read_one(self, key: TileKey) -> Tile:
        shard, number = key
        try:
            if shard not in self._shards:
                while len(self._shards) >= _OPEN_SHARDS:
                    self._shards.popitem(last=False)
                self._shards[shard] = pa.ipc.open_file(_source(shard))
            batch = self._shards[shard].get_batch(number)
        except (OSError, pa.ArrowInvalid) as error:
            raise OSError(f"{shard}: tile {number} of this index shard cannot be read ({error}); restore it") from error
        return Tile(batch.column(0), _array(batch.column(1), "<f2"), _array(batch.column(2), "<i4"))


def read_ids(shard: str) -> Iterator[pa.Array]:
    """The image ids of a shard, a tile at a time; nothing else of it is read."""
    reader = pa.ipc.open_file(_source(shard), options=pa.ipc.IpcReadOptions(included_fields=[0]))
    for number in range(reader.num_record_batches):
        yield reader.get_batch(number).column(0)


def blocks(tiles: Sequence[tuple[TileKey, int]], rows: int = TILE_ROWS) -> list[tuple[TileKey, ...]]:
    """Pack the tiles of one list, which small snapshots leave many of, into blocks of at most ``rows`` rows.

    Args:
        tiles: their keys and the number of rows of each, in an order of their own.
        rows: of a block; a larger tile is a block alone.
    """
    packed: list[tuple[TileKey, ...]] = []
    room = 0
    for key, num_rows in tiles:
        if not packed or num_rows > room:
            packed.append(())
            room = rows
        packed[-1] += (key,)
        room -= num_rows
    return packed


def _binary(rows: np.ndarray) -> pa.Array:
    """[n, m] numbers as n binary values of one size."""
    rows = np.ascontiguousarray(rows)
    width = rows.dtype.itemsize * rows.shape[1]
    return pa.Array.from_buffers(pa.binary(width), len(rows), [None, pa.py_buffer(rows)])


def _array(column: pa.Array, dtype: str) -> np.ndarray:
    width = column.type.byte_width // np.dtype(dtype).itemsize
    start = column.offset * width
    flat = np.frombuffer(column.buffers()[1], dtype)[start : start + len(column) * width]
    return flat.reshape(len(column), width)


def _source(uri: str) -> Any:
    filesystem, path = locate(uri)
    if isinstance(filesystem, LocalFileSystem):
        return pa.memory_map(path)
    arrow, path = pa.fs.FileSystem.from_uri(uri)
    return arrow.open_input_file(path)
