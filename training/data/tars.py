"""WebDataset tars without an index: their headers are read once, in order, and no member."""

import fnmatch
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from training.data.folder import IMAGE_SUFFIXES
from training.data.places import Places

_BLOCK_BYTES = 512


class Member(NamedTuple):
    """An image in a tar."""

    name: str
    offset_bytes: int
    size_bytes: int


class Tars(Places):
    """Encoded images by position: tar by tar in the order of their paths, and within a tar in its own.

    A tar may be empty. Folders, links and hidden names in it are no images.

    Args:
        root: what paths are told relative to.
        files: tars below it, sorted.
        field: which extension is the image, as in ``jpg``; may be a pattern, as in ``*jpg``. Extensions begin at the
            first dot of the base name, as WebDataset has it.

    Raises:
        ValueError: a tar is missing, compressed or cut off, or a sample has several images and ``field`` is None.
    """

    def __init__(self, root: Path, files: Sequence[Path], field: str | None = None) -> None:
        found = [list(members(file, field)) for file in files]
        every = [member for part in found for member in part]
        super().__init__(
            root,
            [file.relative_to(root).as_posix() for file in files],
            np.repeat(np.arange(len(files)), [len(part) for part in found]),
            np.array([member.offset_bytes for member in every], dtype=np.int64),
            np.array([member.size_bytes for member in every], dtype=np.int64),
            (member.name for member in every),
        )


def members(file: Path, field: str | None = None) -> Iterator[Member]:
    """The images of one tar, as :class:`Tars` has them."""
    before = ""
    for entry in _entries(file):
        folder, _, base = entry.name.rpartition("/")
        stem, _, extension = base.partition(".")
        extension = extension.lower()
        if not entry.isreg() or not stem:
            continue
        if field is not None and not fnmatch.fnmatchcase(extension, field.lower()):
            continue
        if field is None and f".{extension.rpartition('.')[2]}" not in IMAGE_SUFFIXES:
            continue
        sample = f"{folder}/{stem}"
        if sample == before and field is None:
            raise ValueError(
                f"{file}: {entry.name} is of the same sample as the image before it; name the extension of those to "
                f"learn from, as in data.field={extension}, which may be a pattern, as in data.field='*jpg'"
            )
        before = sample
        yield Member(entry.name, entry.offset_data, entry.size)


def _entries(file: Path) -> Iterator[tarfile.TarInfo]:
    try:
        with tarfile.open(file, "r:") as tar:
            while (entry := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # which would hold all of them
                yield entry
            assert tar.fileobj is not None
            tar.fileobj.seek(tar.offset)
            rest = tar.fileobj.read(_BLOCK_BYTES)
    except FileNotFoundError:
        raise ValueError(f"{file}: no such tar; copy it again, or leave it out of data.release") from None
    except tarfile.TarError as error:
        raise ValueError(f"{file}: is no whole, uncompressed tar ({error}); copy it again or unpack it") from error
    if rest.strip(b"\0"):  # tarfile ends at a damaged header as if nothing came after it
        raise ValueError(f"{file}: is damaged at byte {tar.offset}; copy it again")
