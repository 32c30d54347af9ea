"""What a source of pictures is, and several of them as one."""

import bisect
import hashlib
import itertools
from collections.abc import Sequence
from typing import Protocol


class Source(Protocol):
    """Encoded images by position. It goes to other processes by pickle, and each reads for itself."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def read(self, position: int) -> bytes:
        """The encoded bytes of one image; empty where there are none.

        Raises:
            OSError: a file is missing, or shorter than when it was listed.
        """
        ...

    def name(self, position: int) -> str:
        """Where an image lies, for a message."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 (hex) over names, places and sizes: equal for equal sources, wherever they lie."""
        ...

    def merkle_root(self) -> str | None:
        """The Merkle root over the images, where a manifest tells one."""
        ...


class Several:
    """Sources one after another, in the order given.

    Args:
        sources: at least one.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = tuple(sources)
        self._ends = list(itertools.accumulate(map(len, sources)))

    def __len__(self) -> int:
        """Number of images in all of them."""
        return self._ends[-1]

    def read(self, position: int) -> bytes:
        """The encoded bytes of one image."""
        source, position = self._at(position)
        return source.read(position)

    def name(self, position: int) -> str:
        """Where an image lies, for a message."""
        source, position = self._at(position)
        return source.name(position)

    def fingerprint(self) -> str:
        """SHA-256 (hex) over the fingerprints of all."""
        return hashlib.sha256("\n".join(source.fingerprint() for source in self._sources).encode()).hexdigest()

    def merkle_root(self) -> str | None:
        """All Merkle roots, a comma between them; None where one source has none."""
        roots = [source.merkle_root() for source in self._sources]
        return None if None in roots else ",".join(map(str, roots))

    def _at(self, position: int) -> tuple[Source, int]:
        number = bisect.bisect_right(self._ends, position)
        return self._sources[number], position - (self._ends[number - 1] if number else 0)
