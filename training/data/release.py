"""A release: WebDataset tars, and beside them ``index.parquet``, which says where each image lies."""

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from training.data.places import Places

INDEX = "index.parquet"
COLUMNS = ["image_id", "shard", "offset_bytes", "size_bytes"]


class Release(Places):
    """Encoded images by position, in the order of their ids, which no repartitioning changes.

    Args:
        root: a folder of tars with their ``index.parquet``.

    Raises:
        ValueError: there is no index that can be read, or it points outside.
    """

    def __init__(self, root: str | Path) -> None:
        root = Path(root)
        index = root / INDEX
        try:
            table = pq.read_table(index, columns=COLUMNS).sort_by("image_id")
        except (OSError, pa.ArrowException) as error:
            raise ValueError(f"{index}: is not the index of a release ({error}); publish the release again") from error
        names = table["shard"].combine_chunks().dictionary_encode()
        found, number_of = np.unique(names.dictionary.to_pylist(), return_inverse=True)
        shards = [str(name) for name in found]
        for shard in shards:
            if PurePosixPath(shard).is_absolute() or ".." in PurePosixPath(shard).parts:
                raise ValueError(f"{index}: shard {shard!r} points outside the release; do not trust this index")
        super().__init__(
            root,
            shards,
            number_of.astype(np.int64)[names.indices.to_numpy()],
            table["offset_bytes"].to_numpy().astype(np.int64),
            table["size_bytes"].to_numpy().astype(np.int64),
            _texts(table["image_id"]),
        )

    def merkle_root(self) -> str | None:
        """The Merkle root in the release's manifest; None without one."""
        manifest = self.root / "manifest.json"
        if not manifest.is_file():
            return None
        values = json.loads(manifest.read_text())
        return values.get("merkle_root") if isinstance(values, dict) else None


def _texts(column: pa.ChunkedArray) -> Iterator[str]:
    for chunk in column.chunks:
        for start in range(0, len(chunk), 65_536):
            yield from chunk[start : start + 65_536].to_pylist()
