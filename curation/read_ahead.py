"""Images read in an order that is known beforehand: while some are used, the next are on their way."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from curation.store import Store, locate

Place = tuple[str, int, int]  # shard, offset and size in bytes
_Elsewhere = dict[AbstractFileSystem, list[tuple[str, Place]]]  # path and place by file system
_IMAGES = 64  # asked for at once: enough to hide the distance to an object store
_BYTES = 16 << 20  # or as many as reach this sum


class ReadAhead:
    """Reads images as ``read`` does, after asking for many of them at once.

    Of local files the kernel is told which ranges come next, and reads them meanwhile; of any other file system the
    ranges are fetched many at a time. What cannot be had ahead is left to ``read``, which says why.

    Args:
        store: whose images they are.
        read: one of them, as ``store.shard_reader`` gives it.
        places: what will be read, in this order.
    """

    def __init__(self, store: Store, read: Callable[[str, int, int], bytes], places: Iterable[Place]) -> None:
        self._store, self._read, self._sources = store, read, store.sources()
        self._parts = _parts(places)
        self._left = 0  # images of the present part that are still to be read
        self._held: dict[Place, bytes] = {}
        self._next = self._advised()

    def __call__(self, shard: str, offset_bytes: int, size_bytes: int) -> bytes:
        """The bytes of the next image; errors as of ``read``."""
        if not self._left:
            self._left, elsewhere = self._next
            self._next, self._held = self._advised(), _fetched(elsewhere)
        self._left -= 1
        place = (shard, offset_bytes, size_bytes)
        data = self._held.pop(place, None)
        return self._read(*place) if data is None else data

    def _advised(self) -> tuple[int, _Elsewhere]:
        """Images of the next part, of whose local files the kernel knows now; and those that lie elsewhere."""
        part = next(self._parts, [])
        of_shard: dict[str, list[Place]] = defaultdict(list)
        for place in part:
            of_shard[place[0]].append(place)
        elsewhere: _Elsewhere = defaultdict(list)
        for shard, places in of_shard.items():
            try:
                filesystem, path = locate(self._store.shard_uri(shard, self._sources))
            except ValueError:  # a damaged name
                continue
            if not isinstance(filesystem, LocalFileSystem):
                elsewhere[filesystem] += [(path, place) for place in places]
            elif hasattr(os, "posix_fadvise"):
                _will_need(path, places)
        return len(part), elsewhere


def _fetched(elsewhere: _Elsewhere) -> dict[Place, bytes]:
    held: dict[Place, bytes] = {}
    for filesystem, listed in elsewhere.items():
        paths, places = zip(*listed, strict=True)
        starts, ends = [place[1] for place in places], [place[1] + place[2] for place in places]
        found = filesystem.cat_ranges(list(paths), starts, ends, on_error="return")
        whole = zip(places, found, strict=True)
        held |= {place: data for place, data in whole if isinstance(data, bytes) and len(data) == place[2]}
    return held


def _parts(places: Iterable[Place]) -> Iterator[list[Place]]:
    part: list[Place] = []
    size = 0
    for place in places:
        part.append(place)
        size += place[2]
        if len(part) == _IMAGES or size >= _BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _will_need(path: str, places: list[Place]) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        for _, offset, size in places:
            os.posix_fadvise(descriptor, offset, size, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(descriptor)
