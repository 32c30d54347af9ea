"""Vectors that stay in a file while they are worked on."""

from pathlib import Path

import numpy as np


class StoredPoints:
    """A ``.npy`` file of vectors, read slice by slice.

    It is not mapped: the pages of a map count as memory of the process as long as the system likes to keep them.
    """

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            ValueError: the file holds no [n, d] array of float16 or float32, row by row.
        """
        array = np.load(path, mmap_mode="r")
        if array.ndim != 2 or array.dtype not in (np.float16, np.float32) or not array.flags.c_contiguous:
            raise ValueError(f"{path}: points are [n, d] of float16 or float32, not {list(array.shape)} {array.dtype}")
        self.shape, self.dtype = array.shape, array.dtype
        self._path, self._offset = path, array.offset

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: slice) -> np.ndarray:
        """[m, d]: the rows of a slice with a step of one."""
        start, stop, step = rows.indices(len(self))
        assert step == 1
        dim = self.shape[1]
        offset = self._offset + start * dim * self.dtype.itemsize
        values = np.fromfile(self._path, self.dtype, max(stop - start, 0) * dim, offset=offset)
        return values.reshape(-1, dim)
