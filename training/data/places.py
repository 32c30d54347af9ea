"""Images that lie in files as they are: by file, offset and size, one ranged read an image."""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

MAX_OPEN_FILES = 64


class Places:
    """Encoded images by position.

    The columns are tensors, so that all workers of a process share one copy in memory.

    Args:
        root: what the names of files start from.
        files: names, relative to ``root``.
        file_of: int64 [n], the file of each image.
        offsets: int64 [n], bytes.
        sizes: int64 [n], bytes.
        names: what images are called, n of them; they go into the fingerprint and are not kept.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[str],
        file_of: np.ndarray,
        offsets: np.ndarray,
        sizes: np.ndarray,
        names: Iterable[str],
    ) -> None:
        self.root = root
        self._files = Texts(files)
        sha = hashlib.sha256("\n".join(files).encode())
        for column in (file_of, offsets, sizes):
            sha.update(column.astype("<i8").tobytes())
        for number, name in enumerate(names):
            sha.update(f"\n{name}".encode() if number else name.encode())
        self._fingerprint = sha.hexdigest()
        self._file_of, self._offsets, self._sizes = map(torch.from_numpy, (file_of, offsets, sizes))
        self._open: OrderedDict[int, int] = OrderedDict()  # file -> descriptor, the one read last at the end

    def __len__(self) -> int:
        """Number of images."""
        return len(self._sizes)

    def read(self, position: int) -> bytes:
        """The encoded bytes of one image; safe in several processes at once.

        Raises:
            OSError: a file is missing or shorter than it was said to be.
        """
        offset, size = int(self._offsets[position]), int(self._sizes[position])
        data = os.pread(self._descriptor(int(self._file_of[position])), size, offset)
        if len(data) < size:
            raise OSError(f"{self._path(position)}: ends before byte {offset + size}; publish or copy it again")
        return data

    def name(self, position: int) -> str:
        """Where an image lies, for a message."""
        return f"{self._path(position)} at byte {int(self._offsets[position])}"

    def fingerprint(self) -> str:
        """SHA-256 (hex) over names, places and sizes."""
        return self._fingerprint

    def merkle_root(self) -> str | None:
        """None: nobody computed one."""
        return None

    def _path(self, position: int) -> Path:
        return self.root / self._files[int(self._file_of[position])]

    def _descriptor(self, file: int) -> int:
        if file not in self._open:
            if len(self._open) == MAX_OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
            self._open[file] = os.open(self.root / self._files[file], os.O_RDONLY)
        self._open.move_to_end(file)
        return self._open[file]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}  # descriptors belong to one process


class Texts:
    """Many short texts in two tensors, for the same reason."""

    def __init__(self, texts: Sequence[str]) -> None:
        encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
        self._ends = torch.tensor([len(text) for text in encoded], dtype=torch.int64).cumsum(0)
        self._bytes = torch.frombuffer(bytearray(b"".join(encoded)) or bytearray(1), dtype=torch.uint8)

    def __getitem__(self, number: int) -> str:
        """One of them."""
        start = int(self._ends[number - 1]) if number else 0
        return self._bytes[start : int(self._ends[number])].numpy().tobytes().decode("utf-8", "surrogateescape")
