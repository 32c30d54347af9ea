"""Reads a release, or a plain folder of images, by position: one ranged read an image."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow.parquet as pq

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


class Release:
    """Encoded images by position, in the order of their ids (or paths), which no repartitioning changes.

    Args:
        root: a release (``index.parquet`` beside WebDataset tars), or a folder of images at any depth.

    Raises:
        ValueError: there is nothing at ``root``, no image in it, or its index points outside.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise ValueError(f"data.release = {str(root)!r}: no such folder; publish a release first, or name a folder")
        self._files: dict[int, int] = {}  # shard number -> file descriptor, opened when first read
        index = self.root / "index.parquet"
        if index.is_file():
            self._read_index(index)
        else:
            self._list_folder()
        if not len(self):
            raise ValueError(f"data.release = {str(root)!r}: there is no image in it, so there is nothing to train on")

    def __len__(self) -> int:
        """Number of images."""
        return len(self._shard_of)

    def read(self, position: int) -> bytes:
        """The encoded bytes of one image; safe in several processes at once.

        Raises:
            OSError: a shard is missing or shorter than the index says.
        """
        shard, offset, size = (int(column[position]) for column in (self._shard_of, self._offsets, self._sizes))
        if shard not in self._files:
            self._files[shard] = os.open(self.root / self.shards[shard], os.O_RDONLY)
        data = os.pread(self._files[shard], size, offset)
        if len(data) < size:
            raise OSError(
                f"{self.root / self.shards[shard]}: ends before byte {offset + size}; publish the release again"
            )
        return data

    def name(self, position: int) -> str:
        """Where an image lies, for a message."""
        return f"{self.shards[self._shard_of[position]]} at byte {self._offsets[position]}"

    def fingerprint(self) -> str:
        """SHA-256 (hex) over what the index says: equal for equal releases, wherever they lie."""
        sha = hashlib.sha256("\n".join(self.shards).encode())
        for column in (self._shard_of, self._offsets, self._sizes):
            sha.update(column.tobytes())
        sha.update("\n".join(self._ids).encode())
        return sha.hexdigest()

    def merkle_root(self) -> str | None:
        """The Merkle root in the release's manifest; None for a folder or a manifest without one."""
        manifest = self.root / "manifest.json"
        if not manifest.is_file():
            return None
        values = json.loads(manifest.read_text())
        return values.get("merkle_root") if isinstance(values, dict) else None

    def _read_index(self, index: Path) -> None:
        table = pq.read_table(index, columns=["image_id", "shard", "offset_bytes", "size_bytes"]).sort_by("image_id")
        self._ids: list[str] = table["image_id"].to_pylist()
        names = table["shard"].to_pylist()
        self.shards: list[str] = sorted(set(names))
        for shard in self.shards:
            if PurePosixPath(shard).is_absolute() or ".." in PurePosixPath(shard).parts:
                raise ValueError(f"{index}: shard {shard!r} points outside the release; do not trust this index")
        number = {shard: i for i, shard in enumerate(self.shards)}
        self._shard_of = np.array([number[name] for name in names], dtype=np.int64)
        self._offsets = table["offset_bytes"].to_numpy().astype(np.int64)
        self._sizes = table["size_bytes"].to_numpy().astype(np.int64)

    def _list_folder(self) -> None:
        found = sorted(_images(self.root), key=lambda path: path.as_posix())
        self.shards = self._ids = [path.relative_to(self.root).as_posix() for path in found]
        self._shard_of = np.arange(len(found), dtype=np.int64)
        self._offsets = np.zeros(len(found), dtype=np.int64)
        self._sizes = np.array([path.stat().st_size for path in found], dtype=np.int64)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}  # descriptors belong to one process


def _images(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
