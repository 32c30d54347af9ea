"""What the name of a file says it is, which files go together, and what the texts beside a picture tell of it.

Pictures are told by their content later on; names only set aside what can be none. WebDataset's word for a picture
and what goes with it is a sample.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from itertools import groupby
from typing import NamedTuple

from curation.links.urls import normalise, registrable_domain

MAX_TEXT_BYTES = 1 << 20  # a longer text is not read

_PICTURES = {
    "avif", "bmp", "dib", "gif", "heic", "heif", "ico", "j2k", "jfif", "jp2", "jpe", "jpeg", "jpg", "jxl", "pbm",
    "pgm", "png", "pnm", "ppm", "psd", "svg", "tga", "tif", "tiff", "webp",
}  # fmt: skip
_NO_PICTURES = {
    # texts, labels and arrays of a data set
    "arrow", "cap", "caption", "cls", "csv", "feather", "h5", "hdf5", "htm", "html", "id", "idx", "index",
    "ini", "json", "jsonl", "log", "md", "mdb", "mp", "npy", "npz", "pickle", "pkl", "pt", "pth", "pyd",
    "safetensors", "ten", "tfrecord", "toml", "tsv", "txt", "xml", "xmp", "yaml", "yml",
    # what people and systems leave beside photographs
    "aae", "db", "doc", "docx", "lnk", "lrcat", "lrv", "pdf", "ppt", "pptx", "py", "sh", "thm", "url", "xls", "xlsx",
    # films and sound
    "3gp", "aac", "avi", "flac", "m4a", "m4v", "mkv", "mov", "mp3", "mp4", "mpeg", "mpg", "mts", "ogg", "wav",
    "webm", "wma", "wmv",
}  # fmt: skip
_ARCHIVES = {"7z", "bz2", "gz", "lz4", "rar", "tbz", "tbz2", "tgz", "txz", "xz", "z", "zip", "zst"}
_JSON, _CAPTIONS = ".json", (".txt", ".caption", ".cap")
_CAPTION_CHARS = 4096

# names by which data sets call the same thing, in order of preference
_URL = ("url", "image_url", "img_url")
_PAGE_URL = ("page_url", "page")
_CAPTION = ("caption", "alt", "alt_text", "text", "txt")


class Kind(Enum):
    """What a file is by its name."""

    PICTURE = "picture"  # may be one: whatever is not known to be something else
    TAR = "tar"
    PARQUET = "parquet"
    OTHER = "other"  # a text, a film, a document
    ARCHIVE = "archive"  # compressed, so nothing in it can be read by range


class About(NamedTuple):
    """What came with a picture; None where nothing was told, or nothing that can be used."""

    url: str | None = None
    page_url: str | None = None
    domain: str | None = None
    caption: str | None = None


def kind(name: str) -> Kind:
    """What a file is by its name, whatever its case; a hidden one is no picture."""
    base = name.rpartition("/")[2]
    suffix = _suffix(base)
    if any(part.startswith(".") and part not in (".", "..") for part in name.split("/")):
        return Kind.OTHER  # such as macOS's ._a.jpg, which is none
    if suffix in ("tar", "parquet"):
        return Kind(suffix)
    if suffix in _ARCHIVES:
        return Kind.ARCHIVE
    return Kind.OTHER if suffix in _NO_PICTURES else Kind.PICTURE


def samples(names: Iterable[str]) -> Iterator[list[str]]:
    """The names of a folder's files, those that go together in one list: ``a.jpg``, ``a.json``, ``a.jpg.json``."""
    for _, group in groupby(sorted(names, key=lambda name: (_stem(name), name)), key=_stem):
        yield list(group)


def key(member: str) -> str:
    """What WebDataset calls the key of a tar's member: its name up to the first dot of the last part."""
    folder, slash, base = member.rpartition("/")
    return folder + slash + base.partition(".")[0]


def about(values: Mapping[str, object]) -> About:
    """What a record with names such as ``url`` and ``caption`` (in any case) tells of its picture."""
    texts = {name.lower(): value for name, value in reversed([*values.items()]) if isinstance(value, str) and value}

    def first(names: Sequence[str]) -> str | None:
        return next((texts[name] for name in names if name in texts), None)

    url, caption = _normal(first(_URL)), first(_CAPTION)
    return About(
        url=url,
        page_url=_normal(first(_PAGE_URL)),
        domain=registrable_domain(url) if url else None,
        caption=caption[:_CAPTION_CHARS].encode("utf-8", "replace").decode() if caption else None,
    )


def about_texts(texts: Iterable[tuple[str, bytes]]) -> About:
    """What the files (name, content) beside a picture tell: a JSON object, and a text that is its caption."""
    values: dict[str, object] = {}
    for name, data in texts:
        if name.lower().endswith(_JSON):
            try:
                record = json.loads(data)
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict):
                values = record | values
        elif name.lower().endswith(_CAPTIONS):
            values.setdefault("txt", data.decode("utf-8", "replace").strip())
    return about(values)


def tells(name: str) -> bool:
    """Whether ``about_texts`` reads a file of this name."""
    return name.lower().endswith((_JSON, *_CAPTIONS))


def belongs(text: str, picture: str) -> bool:
    """Whether a text of a sample is about this picture of it: it has its name, or the sample's."""
    return _stem(text) in (_stem(picture), key(picture))


def _normal(url: str | None) -> str | None:
    try:
        return normalise(url) if url else None
    except ValueError:
        return None


def _suffix(base: str) -> str:
    return base.rpartition(".")[2].lower() if "." in base else ""


def _stem(name: str) -> str:
    """The name without the endings known here: ``a.jpg.json`` and ``a.png`` are both "a", ``a.17`` is itself."""
    for known in (_NO_PICTURES | {"tar", "parquet"}, _PICTURES):
        base = name.rpartition("/")[2]
        if _suffix(base) in known and not base.startswith("."):
            name = name.rpartition(".")[0]
    return name
