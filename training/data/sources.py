"""From what ``data`` says to a source of pictures."""

import glob
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from training.config import Data
from training.data.folder import IMAGE_SUFFIXES, Folder, files_below
from training.data.parquet import Parquet
from training.data.release import INDEX, Release
from training.data.source import Several, Source
from training.data.tars import Tars

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_READERS: dict[str, Callable[[Path, Sequence[Path], str | None], Source]] = {
    "tars": Tars,
    "images": lambda root, files, _: Folder(root, files),
    "Parquet files": Parquet,
}
_HAVE_FIELDS = ("tars", "Parquet files")


def open_source(data: Data) -> Source:
    """The pictures that ``data`` names, in an order that does not depend on the file system.

    Each entry is a release, a folder (at any depth), a file, a pattern (``shards/*.tar``) or a range
    (``shards/{0000..0146}.tar``, of which none may be missing). A folder is taken for what lies in it: tars, or images,
    or Parquet files; Parquet beside tars or images holds records about them, as img2dataset writes it.

    Raises:
        ValueError: there is nothing there, no image in it, or it cannot be told what to read; the message says which.
    """
    entries = (data.release,) if isinstance(data.release, str) else data.release
    sources = [_opened(entry, data.field) for entry in entries]
    return sources[0] if len(sources) == 1 else Several(sources)


def _opened(entry: str, field: str | None) -> Source:
    root = Path(entry)
    if (root / INDEX).is_file():
        if field is not None:
            raise ValueError(
                f"data.field = {field!r}: {entry} is a release, whose index names its images; leave it out"
            )
        source: Source = Release(root)
    elif root.is_dir():
        files = files_below(root)
        source = _read(entry, root, _kind_of_folder(entry, files), files, field)
    else:
        files = _named(entry)
        kinds = {kind for file in files if (kind := _kind(file))}
        if len(kinds) > 1:
            raise ValueError(f"data.release = {entry!r}: names {' and '.join(sorted(kinds))}; name one kind of them")
        root = Path(os.path.commonpath([file.parent for file in files]))
        source = _read(entry, root, kinds.pop() if kinds else "images", files, field)
    if not len(source):
        raise ValueError(f"data.release = {entry!r}: there is no image in it, so there is nothing to train on")
    return source


def _read(entry: str, root: Path, kind: str, files: Sequence[Path], field: str | None) -> Source:
    if field is not None and kind not in _HAVE_FIELDS:
        raise ValueError(f"data.field = {field!r}: {entry} holds images as files, which have no fields; leave it out")
    return _READERS[kind](root, [file for file in files if _kind(file) == kind], field)


def _kind(file: Path) -> str | None:
    suffix = file.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return "images"
    return {".tar": "tars", ".parquet": "Parquet files"}.get(suffix)


def _kind_of_folder(entry: str, files: Sequence[Path]) -> str:
    kinds = {kind for file in files if (kind := _kind(file))}
    if {"tars", "images"} <= kinds:
        raise ValueError(f"data.release = {entry!r}: holds tars and images; name one of them, as in {entry}/*.tar")
    compressed = next((file for file in files if file.name.lower().endswith(_COMPRESSED)), None)
    if compressed and not kinds & {"tars", "images"}:
        raise ValueError(f"{compressed}: members of a compressed tar have no place of their own; unpack it to a .tar")
    return next((kind for kind in _READERS if kind in kinds), "images")


def _named(entry: str) -> list[Path]:
    """The files that a name, pattern or range means, sorted."""
    names: list[str] = []
    for one in _ranged(entry):
        names += glob.glob(one, recursive=True) if glob.has_magic(one) else [one]  # noqa: PTH207  # may be absolute
    files = sorted({Path(name) for name in names}, key=lambda path: path.as_posix())
    missing = [file for file in files if not file.is_file()]
    if missing and len(files) > 1:
        raise ValueError(
            f"{missing[0]}: no such file, and {len(missing) - 1} more of data.release = {entry!r}; copy them again"
        )
    if missing or not files:
        raise ValueError(
            f"data.release = {entry!r}: no such folder or file; publish a release first, or name a folder, tars "
            "or Parquet"
        )
    return files


def _ranged(entry: str) -> Iterator[str]:
    """``a{08..10}`` to ``a08``, ``a09``, ``a10``."""
    if (found := _RANGE.search(entry)) is None:
        yield entry
        return
    first, last = found.groups()
    for number in range(int(first), int(last) + 1):
        yield from _ranged(f"{entry[: found.start()]}{number:0{len(first)}d}{entry[found.end() :]}")
