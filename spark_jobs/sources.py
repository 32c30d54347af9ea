"""The files behind the ``sources`` section, and a fingerprint that follows their content rather than their place."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import fsspec

_SAMPLE_BYTES = 65_536
_GLOB = "*?["


@dataclass(frozen=True)
class SourceFile:
    """One input file: ``name`` is relative to its source, so that a moved source gives the same tables."""

    name: str
    uri: str
    size_bytes: int


def base_folder(root: str) -> str:
    """The folder that the names of a source's files are relative to: of a path, a folder or a glob."""
    filesystem, path = fsspec.core.url_to_fs(root)
    if filesystem.isdir(path):
        return path.rstrip("/")
    if _is_glob(filesystem, path):
        path = path[: min(path.index(character) for character in _GLOB if character in path)]
    return path.rpartition("/")[0]


def list_files(root: str) -> list[SourceFile]:
    """The files of a path, folder or glob (hidden ones left out), by name.

    Raises:
        ValueError: nothing is there.
    """
    filesystem, path = fsspec.core.url_to_fs(root)
    base = base_folder(root)
    if _is_glob(filesystem, path):
        found, nothing = sorted(filesystem.glob(path)), "no file matches; check the pattern"
    elif filesystem.isdir(path):
        found, nothing = sorted(filesystem.find(path)), "the folder is empty; put files in it or name another"
    else:
        found, nothing = [path] if filesystem.exists(path) else [], "no such file or folder; check the path"
    files = []
    for file in found:
        name = file[len(base) :].lstrip("/")
        if not name.isprintable() and name != name.encode("utf-8", "replace").decode():
            raise ValueError(f"{root}: the file name {name!a} is not UTF-8; rename it")
        if not any(part.startswith(".") for part in name.split("/")) and not filesystem.isdir(file):
            files.append(SourceFile(name, filesystem.unstrip_protocol(file), filesystem.size(file)))
    if not files:
        raise ValueError(f"{root}: {nothing}")
    return files


def _is_glob(filesystem: fsspec.AbstractFileSystem, path: str) -> bool:
    """Whether a path is a pattern: a file or folder that bears such a name goes before it."""
    return any(character in path for character in _GLOB) and not filesystem.exists(path)


def list_all(roots: Iterable[str]) -> list[SourceFile]:
    """The files of several roots, in order."""
    return [file for root in roots for file in list_files(root)]


def fingerprint(kind: str, roots: list[str] | dict[str, str]) -> str:
    """SHA-256 over the names, sizes, and first and last 64 KiB of every file of a source."""
    named = roots if isinstance(roots, dict) else {str(i): root for i, root in enumerate(roots)}
    total = hashlib.sha256(kind.encode())
    with ThreadPoolExecutor(8) as pool:
        for name, root in sorted(named.items()):
            total.update(f"\0{name}".encode())
            files = list_files(root)
            for file, sample in zip(files, pool.map(_sample, files), strict=True):
                total.update(f"\0{file.name}\0{file.size_bytes}\0{sample}".encode())
    return total.hexdigest()


def _sample(file: SourceFile) -> str:
    with fsspec.open(file.uri, "rb") as opened:
        head = opened.read(_SAMPLE_BYTES)
        opened.seek(max(len(head), file.size_bytes - _SAMPLE_BYTES))
        return hashlib.sha256(head + opened.read(_SAMPLE_BYTES)).hexdigest()
