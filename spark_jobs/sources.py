"""The files behind the ``sources`` section, and a fingerprint that follows their content rather than their place."""

import errno
import gzip
import hashlib
import io
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import fsspec
from deltalake import DeltaTable
from fsspec.implementations.local import LocalFileSystem

from conf import shipped
from curation.store import Store, locate, open_uri

_SAMPLE_BYTES = 65_536
_TASK_BYTES = 32 << 20  # a file of this size or more has a task to itself
_PROBES = 16
_THREADS = 8
_GLOB = "*?["
_PATHS = (".paths", ".paths.gz")
_ABSENT = (errno.ENOENT, errno.EACCES, errno.ELOOP)
_DIGESTS = ("ETag", "etag", "md5Hash", "content_md5")  # what object stores' listings tell of contents


@dataclass(frozen=True)
class SourceFile:
    """One input file.

    Attributes:
        name: relative to its source, so that a moved source gives the same tables.
        uri: where it is.
        size_bytes: None where a list names the file and nobody has asked for it yet, or it is not there.
        digest: what a listing tells of its content; empty where it tells nothing.
        listed: whether a list of paths names it, so that it need not exist.
    """

    name: str
    uri: str
    size_bytes: int | None
    digest: str = ""
    listed: bool = False


def base_folder(root: str) -> str:
    """The folder that the names of a source's files are relative to: of a path, a folder or a glob."""
    filesystem, path = locate(root)
    if _is_folder(filesystem, path):
        return path.rstrip("/")
    if _is_glob(filesystem, path):
        path = path[: min(path.index(character) for character in _GLOB if character in path)]
    return path.rpartition("/")[0]


def list_files(root: str) -> list[SourceFile]:
    """The files of a path, folder or glob, by name; hidden ones, links to folders, pipes and devices are left out.

    Raises:
        ValueError: nothing is there.
    """
    filesystem, path = locate(root)
    base = base_folder(root)
    if _is_glob(filesystem, path):
        found, nothing = filesystem.glob(path, detail=True), "no file matches; check the pattern"
    elif _is_folder(filesystem, path):
        found, nothing = filesystem.find(path, detail=True), "the folder is empty; put files in it or name another"
    else:
        there = filesystem.exists(path)
        found, nothing = {path: filesystem.info(path)} if there else {}, "no such file or folder; check the path"
        if not isinstance(filesystem, LocalFileSystem):
            nothing = "no such file or folder, or its host does not answer; check the address"
    files = []
    for file, info in sorted(found.items()):
        name = file[len(base) :].lstrip("/")
        if not name.isprintable() and name != name.encode("utf-8", "replace").decode():
            raise ValueError(f"{root}: the file name {name!a} is not UTF-8; rename it")
        if any(part.startswith(".") for part in name.split("/")):
            continue
        # a link that leads nowhere stays, to be reported; one to a folder, or a pipe that would never end, does not
        is_special = info["type"] == "other" and filesystem.exists(file) and not filesystem.isfile(file)
        if info["type"] != "directory" and not is_special:
            digest = next((str(info[key]) for key in _DIGESTS if info.get(key)), "")
            files.append(SourceFile(name, filesystem.unstrip_protocol(file), info.get("size"), digest))
    if not files:
        raise ValueError(f"{root}: {nothing}")
    return files


def list_all(roots: Iterable[str], paths_root: str | None = None) -> list[SourceFile]:
    """The files of several roots, in order.

    A root (or a match of its glob) called ``*.paths`` or ``*.paths.gz`` is a list of files, as Common Crawl publishes
    them. Nothing is asked about the files themselves, so 90,000 of them cost no more than the list.

    Args:
        roots: paths, folders, globs.
        paths_root: what the entries of such a list are relative to.

    Raises:
        ValueError: nothing is there, or a list's entries cannot be placed.
    """
    files: list[SourceFile] = []
    for root in roots:
        filesystem, path = locate(root)
        for file in list_files(root):
            is_list = file.name.endswith(_PATHS) and not _is_folder(filesystem, path)
            files += _listed_files(file, root, paths_root) if is_list else [file]
    return files


def in_tasks(files: Sequence[SourceFile], at_least: int) -> list[list[SourceFile]]:
    """What one task reads: a file, or several small ones in a row.

    Args:
        files: a size that is not known counts as a large one.
        at_least: tasks that small files are spread over, where there are as many.
    """
    known = sum(file.size_bytes or 0 for file in files)
    enough = min(_TASK_BYTES, -(-known // at_least))
    tasks: list[list[SourceFile]] = []
    room = 0
    for file in files:
        size = _TASK_BYTES if file.size_bytes is None else file.size_bytes
        if not tasks or room <= 0 or size >= _TASK_BYTES:
            tasks.append([])
            room = enough
        tasks[-1].append(file)
        room -= size
    return tasks


def require_some(files: Sequence[SourceFile]) -> None:
    """Refuse a list of paths of which nothing is there, before each of its files is reported as missing.

    Asks for a few files of the list, spread evenly.

    Raises:
        ValueError: none of them is there.
    """
    listed = [file for file in files if file.listed and file.size_bytes is None]
    if not listed or any(file.listed and file.size_bytes is not None for file in files):
        return
    probes = listed[:: -(-len(listed) // _PROBES)]
    with ThreadPoolExecutor(_THREADS) as pool:
        if not any(pool.map(_is_there, probes)):
            raise ValueError(
                f"{probes[0].uri}: not there, nor is any other of {len(probes)} files that the list of paths names; "
                "check sources.paths_root, and whether its host lets you read"
            )


def fingerprint(kind: str, roots: list[str] | dict[str, str], paths_root: str | None = None) -> str:
    """SHA-256 over the names, sizes and contents of every file of a source, wherever it lies.

    Of a local file's content the first and last 64 KiB count, of one in an object store the digest that its listing
    gives (so nothing is fetched), of one of ``sources.lists`` all of it. Of what a list of paths names, the name
    counts, and on a local disk the size: a crawl does not change its files, and asking for 90,000 sizes at every
    start would take longer than many a stage.
    """
    if isinstance(roots, dict):
        named = {name: [root] for name, root in roots.items()}
    else:
        named = {str(i): [root] for i, root in enumerate(roots)}
    total = hashlib.sha256(kind.encode())
    with ThreadPoolExecutor(_THREADS) as pool:
        for name, single in sorted(named.items()):
            total.update(f"\0{name}".encode())
            if kind == "lists":
                total.update(hashlib.sha256(b"\n".join(line.encode() for line in read_lines(single[0]))).digest())
                continue
            if kind == "stores":
                total.update(_state(name, single[0]).encode())
                continue
            files = list_all(single, paths_root)
            for file, content in zip(files, pool.map(_content, files), strict=True):
                total.update(f"\0{file.name}\0{file.size_bytes}\0{content}".encode())
    return total.hexdigest()


def _state(name: str, uri: str) -> str:
    """What another store's index holds, and which of its images are in its pool."""
    other = Store(uri)
    if not DeltaTable.is_deltatable(other.table_uri("tiles")):
        raise ValueError(f"sources.stores.{name}={uri}: no index is there; name a store in which dedup has run")
    tiles, embed = DeltaTable(other.table_uri("tiles")), other.runs().get("embed")
    return f"\0{tiles.metadata().id}\0{tiles.version()}\0{embed.run_id if embed else None}"


def read_lines(uri: str) -> Iterator[str]:
    """The lines of a text file, which may be gzip; a name that is not there is also looked for in ``conf/``.

    Raises:
        ValueError: no such file, or damaged gzip.
    """
    if "://" not in uri:
        uri = str(shipped(uri) or uri)
    try:
        with open_uri(uri) as file:
            data = file.read()
    except FileNotFoundError as error:
        raise ValueError(f"{uri}: no such file; check the path") from error
    if data.startswith(b"\x1f\x8b"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{uri}: damaged gzip; fetch it again") from error
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", errors="replace")


def _listed_files(file: SourceFile, root: str, paths_root: str | None) -> list[SourceFile]:
    """The files that a list of paths names, each once."""
    numbers: dict[str, int] = {}
    for number, line in enumerate(read_lines(file.uri), 1):
        numbers.setdefault(line.strip(), number)
    names = sorted(numbers.keys() - {""})
    for name in names:
        if name.startswith("/") or "://" in name or ".." in name.split("/"):
            raise ValueError(
                f"{root}, line {numbers[name]}: {name[:200]!r} is no path below a root, as crawl-data/x.warc.gz"
            )
    if not names:
        raise ValueError(f"{root}: the list of paths is empty; name another")
    below = paths_root or _own_root(file.uri, names[0])
    if below is None:
        raise ValueError(
            f"{root}: a list of relative paths; say below what they lie, as in "
            "sources.paths_root=https://data.commoncrawl.org or s3://commoncrawl, or the folder of your own copy"
        )
    filesystem, folder = locate(below)
    is_local = isinstance(filesystem, LocalFileSystem)
    files = []
    for name in names:
        path = f"{folder.rstrip('/')}/{name}"
        size = Path(path).stat().st_size if is_local and Path(path).is_file() else None
        files.append(SourceFile(name, filesystem.unstrip_protocol(path), size, listed=True))
    return files


def _own_root(uri: str, name: str) -> str | None:
    """The root of a list that lies in its own place: "<root>/crawl-data/X/warc.paths.gz" of "crawl-data/X/...".

    None where it lies anywhere else.
    """
    folder, parts = uri.rpartition("/")[0], name.split("/")[:-1]
    for depth in range(len(parts), 0, -1):
        below = "/" + "/".join(parts[:depth])
        if folder.endswith(below):
            return folder.removesuffix(below)
    return None


def _is_folder(filesystem: fsspec.AbstractFileSystem, path: str) -> bool:
    """Whether a path is a folder; an HTTP server would answer the question with the whole file."""
    return path.endswith("/") if "http" in filesystem.protocol else filesystem.isdir(path)


def _is_glob(filesystem: fsspec.AbstractFileSystem, path: str) -> bool:
    """Whether a path is a pattern: a file or folder that bears such a name goes before it."""
    return any(character in path for character in _GLOB) and not filesystem.exists(path)


def _is_there(file: SourceFile) -> bool:
    filesystem, path = locate(file.uri)
    return bool(filesystem.exists(path))


def _content(file: SourceFile) -> str:
    if file.digest or file.listed:
        return file.digest
    try:
        with open_uri(file.uri) as opened:
            head = opened.read(_SAMPLE_BYTES)
            opened.seek(max(len(head), (file.size_bytes or 0) - _SAMPLE_BYTES))
            return hashlib.sha256(head + opened.read(_SAMPLE_BYTES)).hexdigest()
    except OSError as error:  # a file that cannot be opened is reported by the stage that reads it
        if error.errno not in _ABSENT:
            raise
        return "absent"
