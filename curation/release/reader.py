"""Reads a release: its samples in order, or one image by id, from the release alone."""

import json
import posixpath
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from curation.release.manifest import INDEX, MANIFEST, Manifest, parse_index, parse_manifest
from curation.release.shards import read_entries
from curation.store import locate


class ReleasedImage(NamedTuple):
    """One sample: its id, file extension, encoded bytes and metadata."""

    image_id: str
    extension: str
    data: bytes
    metadata: dict[str, Any]


class ReleaseReader:
    """Reads one release; it trusts what it reads, ``verify`` does not.

    Args:
        uri: folder or fsspec URI of the release.
    """

    def __init__(self, uri: str) -> None:
        self.uri = str(uri)
        self._fs, self._folder = locate(self.uri)

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest.

        Raises:
            ValueError: the release is not complete, or the manifest cannot be read.
        """
        if not self.exists(MANIFEST):
            raise ValueError(f"{self.uri}: no {MANIFEST}, so this is not a finished release; run the publish stage")
        try:
            return parse_manifest(self.read_file(MANIFEST))
        except ValueError as error:
            raise ValueError(f"{self.uri}/{MANIFEST}: {error}") from error

    @cached_property
    def index(self) -> pa.Table:
        """The index, one row an image, in release order.

        Raises:
            OSError: there is none.
            ValueError: it is damaged or has other columns.
        """
        try:
            return parse_index(self.read_file(INDEX))
        except ValueError as error:
            raise ValueError(f"{self.uri}/{INDEX}: {error}") from error

    def __len__(self) -> int:
        return self.manifest.images

    def __iter__(self) -> Iterator[ReleasedImage]:
        for shard in self.manifest.shards:
            with self.open(shard.name) as file:
                entries = read_entries(file, shard.size_bytes)
                for image, text in zip(entries, entries, strict=True):
                    yield _sample(image.name, image.data, text.data)

    def read(self, image_id: str) -> ReleasedImage:
        """One image by its id: a single ranged read and another for its metadata.

        Raises:
            ValueError: the release does not hold it.
        """
        rows = self.index.filter(pc.field("image_id") == image_id).to_pylist()
        if not rows:
            raise ValueError(f"{self.uri}: holds no image {image_id!r}")
        row = rows[0]
        with self.open(row["shard"]) as file:
            file.seek(row["offset_bytes"])
            data = file.read(row["size_bytes"])
            file.read(-row["size_bytes"] % 512)
            size = int(file.read(512)[124:135], 8)
            return _sample(row["member"], data, file.read(size))

    def open(self, name: str) -> Any:
        """Open a file of the release for reading.

        Raises:
            OSError: there is no such file.
        """
        return self._fs.open(posixpath.join(self._folder, name), "rb")

    def read_file(self, name: str) -> bytes:
        """All bytes of a file of the release.

        Raises:
            OSError: there is no such file.
        """
        return bytes(self._fs.cat_file(posixpath.join(self._folder, name)))

    def exists(self, name: str) -> bool:
        """Whether the release holds a file."""
        return bool(self._fs.isfile(posixpath.join(self._folder, name)))

    def size_bytes(self, name: str) -> int:
        """Size of a file of the release."""
        return int(self._fs.size(posixpath.join(self._folder, name)))

    def names(self) -> list[str]:
        """Names of all files in the release's folder.

        Raises:
            ValueError: there is no such folder.
        """
        if not self._fs.isdir(self._folder):
            raise ValueError(f"{self.uri}: no such folder; name the folder that holds {MANIFEST}")
        return sorted(posixpath.basename(path) for path in self._fs.ls(self._folder, detail=False))


def _sample(member: str, data: bytes, text: bytes) -> ReleasedImage:
    image_id, _, extension = member.partition(".")
    return ReleasedImage(image_id, extension, data, json.loads(text))
