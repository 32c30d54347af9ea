"""Files that appear under their names when they are complete, or not at all."""

import contextlib
import uuid
from collections.abc import Iterator
from typing import BinaryIO

import fsspec

_PARTIAL = ".part"


@contextlib.contextmanager
def whole_file(filesystem: fsspec.AbstractFileSystem, path: str) -> Iterator[BinaryIO]:
    """Write a file that several attempts may write at once; each has a name of its own until it is complete."""
    folder, _, name = path.rpartition("/")
    partial = f"{folder}/.{name}.{uuid.uuid4().hex}{_PARTIAL}"
    try:
        with filesystem.open(partial, "wb") as file:
            yield file
        filesystem.mv(partial, path)
    except BaseException:
        if filesystem.exists(partial):
            filesystem.rm(partial)
        raise


def is_partial(name: str) -> bool:
    """Whether a file of this name is what :func:`whole_file` leaves where its process is killed."""
    return name.startswith(".") and name.endswith(_PARTIAL)


def put_whole(filesystem: fsspec.AbstractFileSystem, path: str, data: bytes) -> None:
    """Write a file that only one process writes; what it leaves when killed, the next attempt replaces."""
    filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
    filesystem.pipe_file(f"{path}.new", data)
    filesystem.mv(f"{path}.new", path)
