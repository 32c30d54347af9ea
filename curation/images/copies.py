"""Images that cannot be read by range where they lie, copied into tar shards of the store."""

import hashlib
import uuid
from typing import BinaryIO

from curation.fetch.tars import TarWriter, extension
from curation.store import locate

_SHARD_BYTES = 1 << 30  # a shard is closed when it holds as much


class Copies:
    """The shards with the images of one file, in order; their names and bytes follow from the file alone.

    A shard appears under its name when it is complete; a repetition replaces it by the same bytes. Use it as a context
    manager: what was written last is kept if the block ends well.

    Args:
        store_uri: the store.
        run_id: the run that copies.
        location: "<source name>:<relative path>" of the file.
        shard_bytes: a shard is closed when it holds as much.
    """

    def __init__(self, store_uri: str, run_id: str, location: str, shard_bytes: int = _SHARD_BYTES) -> None:
        self._folder = f"shards/{run_id}"
        self._filesystem, self._root = locate(f"{store_uri}/{self._folder}")
        self._stem = f"imported-{hashlib.sha256(location.encode()).hexdigest()[:16]}"
        self._shard_bytes = shard_bytes
        self._number = 0  # of the shard
        self._images = 0  # in the shard
        self._file: BinaryIO | None = None
        self._tar: TarWriter | None = None
        self._attempt = ""

    def __enter__(self) -> "Copies":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._finish()
        elif self._file is not None:
            self._file.close()
            self._filesystem.rm_file(self._attempt)

    def add(self, data: bytes) -> tuple[str, int]:
        """Copy one image; returns its shard, as the tables name it, and the offset of its bytes there."""
        if self._tar is None:
            self._begin()
        assert self._tar is not None
        name = self._name()
        offset = self._tar.add(f"{self._images:08d}.{extension(data)}", data)
        self._images += 1
        if offset + len(data) >= self._shard_bytes:
            self._finish()
        return f"store:{self._folder}/{name}", offset

    def _name(self) -> str:
        return f"{self._stem}-{self._number:05d}.tar"

    def _begin(self) -> None:
        self._filesystem.makedirs(self._root, exist_ok=True)
        self._attempt = f"{self._root}/.{self._name()}.{uuid.uuid4().hex}.part"
        self._file = self._filesystem.open(self._attempt, "wb")
        self._tar = TarWriter(self._file)

    def _finish(self) -> None:
        if self._file is None or self._tar is None:
            return
        self._tar.close()
        self._file.close()
        self._filesystem.mv(self._attempt, f"{self._root}/{self._name()}")
        self._file = self._tar = None
        self._number, self._images = self._number + 1, 0
