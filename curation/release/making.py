"""A shard's file: written from samples, or taken over from a release that has the same one."""

import errno
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

from fsspec.implementations.local import LocalFileSystem

from curation.release.shards import DamagedShardError, Entry, Member, read_entries, write_shard
from curation.store import locate
from curation.whole_files import whole_file

_BUFFER_BYTES = 1 << 20  # images of some 100 kB go to the system ten at a time
_UNLINKABLE = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP)


class Made(NamedTuple):
    """A tar that is in place; ``blurred`` are the regions of each member, where it was taken over."""

    size_bytes: int
    sha256: str
    members: list[Member]
    blurred: list[list[list[int]]] = []


def make_shard(release: str, name: str, samples: Iterable[tuple[Any, ...]]) -> Made:
    """Write a shard into a release's folder, whole or not at all; each sample as ``write_shard`` takes it."""
    filesystem, folder = locate(release)
    with whole_file(filesystem, f"{folder}/{name}") as file, io.BufferedWriter(file, _BUFFER_BYTES) as buffered:
        hashing = Hashing(buffered)
        members = write_shard(hashing, samples)
    return Made(hashing.size_bytes, hashing.digest.hexdigest(), members)


def take_over(previous: str, release: str, name: str, sha256: str) -> Made | None:
    """Put a shard of another release into a release's folder, if it is still the one that it was.

    Every byte is read and hashed, so that damage does not travel. Where both lie on one disk the file is linked; no
    shard is ever changed in place.

    Args:
        previous: URI of the release that has it.
        release: URI of the folder that is to have it.
        name: of the shard.
        sha256: that it must have.

    Returns:
        What it is; None where it is gone or is another one, and then nothing was put there.
    """
    filesystem, folder = locate(previous)
    if not filesystem.isfile(f"{folder}/{name}"):
        return None
    members, blurred = [], []
    with filesystem.open(f"{folder}/{name}", "rb") as raw:
        hashing = Hashing(raw)
        try:
            for image, text in pairs(read_entries(hashing, filesystem.size(f"{folder}/{name}"))):
                hashes = (hashlib.sha256(entry.data).hexdigest() for entry in (image, text))
                members.append(Member(image.name, image.offset_bytes, len(image.data), *hashes))
                blurred.append(json.loads(text.data)["blurred"])
        except (DamagedShardError, ValueError, KeyError):
            return None
    if hashing.digest.hexdigest() != sha256:
        return None
    link_file(f"{previous}/{name}", f"{release}/{name}")
    return Made(hashing.size_bytes, sha256, members, blurred)


def link_file(source: str, target: str) -> None:
    """The same file under another name: a link on one disk, else a copy, whole or not at all."""
    (from_, path), (to, place) = locate(source), locate(target)
    if isinstance(from_, LocalFileSystem) and isinstance(to, LocalFileSystem):
        try:
            os.link(path, place)
            return
        except FileExistsError:  # by another attempt at the same
            return
        except OSError as error:
            if error.errno not in _UNLINKABLE:
                raise
    with from_.open(path, "rb") as read, whole_file(to, place) as write:
        shutil.copyfileobj(read, write, 1 << 20)


def pairs(entries: Iterable[Entry]) -> Iterator[tuple[Entry, Entry]]:
    """An image and its metadata by turns."""
    read = iter(entries)
    return zip(read, read, strict=True)


class Hashing:
    """A file that knows the SHA-256 and the size of what went through it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.size_bytes = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        """Take all of ``data``."""
        self._pass(data)
        return self.file.write(data)

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes."""
        data = self.file.read(size)
        self._pass(data)
        return data

    def _pass(self, data: bytes) -> None:
        self.digest.update(data)
        self.size_bytes += len(data)
