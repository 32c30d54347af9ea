import gzip
import zlib

import pytest

from curation.links import bodies
from curation.links.bodies import BodyError, BodyTooLargeError, decompress

EMPTY = gzip.compress(b"", mtime=0)


def test_members_are_joined_and_what_follows_them_is_dropped():
    parts = [bytes(range(256)) * n for n in (0, 1, 7, 300)]
    data = b"".join(gzip.compress(part) for part in parts)
    assert decompress(data, "gzip", 10**6) == b"".join(parts)
    assert decompress(data + b"\0" * 999, "gzip", 10**6) == b"".join(parts)
    assert decompress(zlib.compress(parts[3]), "deflate", 10**6) == parts[3]
    with pytest.raises(BodyError, match="truncated"):
        decompress(data[:-1], "gzip", 10**6)
    with pytest.raises(BodyTooLargeError):
        decompress(data, "gzip", len(b"".join(parts)) - 1)


def test_the_work_grows_with_the_bytes_however_many_members(monkeypatch):
    given = []
    make = zlib.decompressobj

    class Counting:
        def __init__(self, window):
            self._real = make(window)

        def __getattr__(self, name):
            return getattr(self._real, name)

        def decompress(self, data, most):
            given.append(len(data))
            return self._real.decompress(data, most)

    monkeypatch.setattr(bodies.zlib, "decompressobj", Counting)
    assert decompress(EMPTY * 2000 + gzip.compress(b"x"), "gzip", 100) == b"x"
    assert sum(given) < 30 * 2000 * len(EMPTY)
