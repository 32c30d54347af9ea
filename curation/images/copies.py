"""Images that cannot be read by range where they lie, copied into tar shards of the store."""

import hashlib
from contextlib import ExitStack

from curation.fetch.tars import TarWriter, extension
from curation.store import locate
from curation.whole_files import whole_file

_SHARD_BYTES = 1 << 30


class Copies:
    """The shards with the images of one file, in order; their names and bytes follow from the file alone.

    A shard appears under its name when it is complete; a repetition replaces it by the same bytes. Use it as a context
    manager: the last shard is complete when the block ends, and absent if it ends in an error.

    Args:
        store_uri: the store.
        run_id: the run that copies.
        location: "<source name>:<relative path>" of the file.
        shard_bytes: a shard is complete when it holds as much.
    """

    def __init__(self, store_uri: str, run_id: str, location: str, shard_bytes: int = _SHARD_BYTES) -> None:
        self._folder = f"shards/{run_id}"
        self._filesystem, self._root = locate(f"{store_uri}/{self._folder}")
        self._stem = f"imported-{hashlib.sha256(location.encode()).hexdigest()[:16]}"
        self._shard_bytes = shard_bytes
        self._number = 0  # of the shard
        self._images = 0  # in the shard
        self._tar: TarWriter | None = None
        self._open = ExitStack()

    def __enter__(self) -> "Copies":
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self._finish()
        self._open.__exit__(*error)  # type: ignore[arg-type]

    def add(self, data: bytes) -> tuple[str, int]:
        """Copy one image; returns its shard, as the tables name it, and the offset of its bytes there."""
        name = f"{self._stem}-{self._number:05d}.tar"
        if self._tar is None:
            self._filesystem.makedirs(self._root, exist_ok=True)
            self._tar = TarWriter(self._open.enter_context(whole_file(self._filesystem, f"{self._root}/{name}")))
        offset = self._tar.add(f"{self._images:08d}.{extension(data)}", data)
        self._images += 1
        if offset + len(data) >= self._shard_bytes:
            self._finish()
        return f"store:{self._folder}/{name}", offset

    def _finish(self) -> None:
        if self._tar is not None:
            self._tar.close()
            self._open.close()
            self._tar, self._number, self._images = None, self._number + 1, 0
