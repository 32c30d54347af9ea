"""A folder of pictures, one a file, and what else lies in a folder."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from training.data.places import Places

IMAGE_SUFFIXES = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".png",
        ".webp",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".avif",
        ".npy",
    }  # npy: see training.data.picture
)


class Folder(Places):
    """Encoded images by position, in the order of their paths.

    Args:
        root: what paths are told relative to.
        files: below it, sorted.

    Raises:
        ValueError: a link leads nowhere.
    """

    def __init__(self, root: Path, files: Sequence[Path]) -> None:
        names = [file.relative_to(root).as_posix() for file in files]
        sizes = np.array([_size(file) for file in files], dtype=np.int64)
        super().__init__(root, names, np.arange(len(names)), np.zeros_like(sizes), sizes, names)

    def name(self, position: int) -> str:
        """The path of an image."""
        return str(self._path(position))


def files_below(root: Path) -> list[Path]:
    """All files at any depth, in the order of their paths, whatever the file system's order is.

    Names that begin with a dot are left out, whole folders too. Links are followed, and a folder to which several
    lead is listed once, so that a circle of links ends.
    """
    return sorted(_walk(root), key=lambda path: path.as_posix())


def _walk(root: Path) -> Iterator[Path]:
    seen: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        status = os.stat(folder)  # noqa: PTH116  # a Path for every folder of millions would cost more than this
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder, name) for name in files if not name.startswith("."))


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise ValueError(
            f"{file}: cannot be read ({error.strerror}); remove it, or the link, or bring it back"
        ) from error
