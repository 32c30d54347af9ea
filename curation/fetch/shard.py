"""One shard of URLs through img2dataset, with the guarded fetch and a writer of equal bytes for equal answers."""

import json
import tempfile
import threading
import types
import uuid
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa

from curation.fetch.img2dataset_quiet import import_img2dataset
from curation.fetch.options import FetchOptions
from curation.fetch.outcome import Fetched, FetchError
from curation.fetch.retry import fetch_patiently
from curation.fetch.tars import TarWriter, extension
from curation.schema import Reason

MAX_URLS_PER_SHARD = 100_000  # ten times what a recipe may ask for: shards split by hash are uneven

_KEY_DIGITS = (5, 5)  # of the shard and of the position in it
_SPOOL_BYTES = 64 << 20  # kept in memory while a shard is fetched; the rest waits in a temporary file


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one URL: a row of the ``fetches`` table.

    Attributes:
        url: as asked for.
        shard: file name of the tar, for a success.
        offset_bytes: of the body in the tar; None for a failure.
        size_bytes: of the body; None for a failure.
        reason: None for a success.
        detail: what the reason leaves open, the same for every repetition; None for a success.
        rights: signals in the response headers.
    """

    url: str
    shard: str | None
    offset_bytes: int | None
    size_bytes: int | None
    reason: Reason | None
    detail: str | None
    rights: tuple[str, ...]


def shard_name(shard_id: int) -> str:
    """File name of a shard, as ``00007.tar``."""
    return f"{shard_id:0{_KEY_DIGITS[0]}d}.tar"


def fetch_shard(urls: list[str], shard_id: int, folder: str | Path, options: FetchOptions) -> list[Outcome]:
    """Fetch URLs into ``<folder>/<shard>.tar`` and tell what became of each, in the order given.

    The tar holds, for each success, ``<key>.<ext>`` with the bytes as sent, whether or not they are an image, and
    ``<key>.json``. Its bytes depend on the answers only. It appears under its name when it is complete; a repetition
    replaces it, and a shard without any success is written too.

    Args:
        urls: different ones, normalised, at most ``MAX_URLS_PER_SHARD``.
        shard_id: position of the shard in its run.
        folder: existing or not, local or an fsspec URI.
        options: limits and manners.

    Raises:
        ValueError: too many URLs or too high a shard id.
        OSError: the tar cannot be written.
    """
    if len(urls) > MAX_URLS_PER_SHARD:
        raise ValueError(f"{len(urls)} URLs in one shard; at most {MAX_URLS_PER_SHARD} fit, so use more shards")
    if not 0 <= shard_id < 10 ** _KEY_DIGITS[0]:
        raise ValueError(f"shard id {shard_id} is not in 0 ... {10 ** _KEY_DIGITS[0] - 1}")
    with tempfile.TemporaryDirectory(prefix="openlvd-fetch-") as scratch, _Answers(urls, options) as answers:
        if urls:
            _run_img2dataset(answers, shard_id, Path(scratch))
        return answers.write_tar(shard_id, str(folder))


class _Answers:
    """The answers of one shard as they arrive: bodies spooled in any order, written in the order of the URLs."""

    def __init__(self, urls: list[str], options: FetchOptions) -> None:
        self.urls = urls
        self.options = options
        self._spool = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115 - closed by __exit__
        self._places: dict[int, tuple[int, int]] = {}
        self._rights: dict[int, tuple[str, ...]] = {}
        self._failures: dict[int, FetchError] = {}
        self._lock = threading.Lock()
        self._defect: Exception | None = None

    def __enter__(self) -> "_Answers":
        return self

    def __exit__(self, *_: object) -> None:
        self._spool.close()

    def fetch(self, position: int, url: str) -> bytes | None:
        """Fetch one URL; None for a failure, which is kept. It never raises: img2dataset's pool would hang."""
        answer: Fetched | FetchError
        try:
            answer = fetch_patiently(url, self.options)
        except FetchError as error:
            answer = error
        except Exception as error:  # a defect of ours; write_tar raises it
            self._defect = error
            return None
        with self._lock:
            self._rights[position] = answer.rights
            if isinstance(answer, FetchError):
                self._failures[position] = answer
        return answer.body if isinstance(answer, Fetched) else None

    def keep(self, position: int, body: bytes) -> None:
        """Spool one body; img2dataset calls its writer from one thread, and swallows what it raises."""
        try:
            start = self._spool.seek(0, 2)
            self._spool.write(body)
        except Exception as error:  # such as a full disk; write_tar raises it
            self._defect = error
        else:
            self._places[position] = (start, len(body))

    def write_tar(self, shard_id: int, folder: str) -> list[Outcome]:
        """Write the tar under a name of this attempt, rename it, and return all outcomes."""
        if self._defect is not None:
            raise self._defect
        assert len(self._places) + len(self._failures) == len(self.urls), "img2dataset lost an answer"
        name = shard_name(shard_id)
        filesystem, root = fsspec.core.url_to_fs(folder)
        filesystem.makedirs(root, exist_ok=True)
        partial = f"{root}/.{name}.{uuid.uuid4().hex}.part"
        try:
            with filesystem.open(partial, "wb") as file:
                tar = TarWriter(file)
                outcomes = [self._write(tar, shard_id, position) for position in range(len(self.urls))]
                tar.close()
            filesystem.mv(partial, f"{root}/{name}")
        except BaseException:
            if filesystem.exists(partial):
                filesystem.rm(partial)
            raise
        return outcomes

    def _write(self, tar: TarWriter, shard_id: int, position: int) -> Outcome:
        url, rights = self.urls[position], self._rights[position]
        failure = self._failures.get(position)
        if failure is not None:
            return Outcome(url, None, None, None, failure.reason, failure.message, rights)
        start, size = self._places[position]
        self._spool.seek(start)
        body = self._spool.read(size)
        key = f"{shard_id:0{_KEY_DIGITS[0]}d}{position:0{_KEY_DIGITS[1]}d}"
        record = json.dumps({"key": key, "rights": rights, "url": url}, sort_keys=True)
        offset = tar.add(f"{key}.{extension(body)}", body)
        tar.add(f"{key}.json", record.encode())
        return Outcome(url, shard_name(shard_id), offset, size, None, None, rights)


def _run_img2dataset(answers: _Answers, shard_id: int, scratch: Path) -> None:
    """Run img2dataset's ``Downloader`` over the URLs.

    The seam is here and nowhere else: its ``download_shard`` (the pool of threads, the limit on what is in flight)
    runs with its module's globals, except that ``download_image_with_retry`` is our guarded fetch, ``write_stats``
    (which writes times) does nothing, and ``print`` and ``traceback`` are silent. The module itself stays as it
    is, so nothing else in the process changes.
    """
    downloader, resizer = import_img2dataset()

    def guarded(row: tuple[int, str], **_: Any) -> tuple[int, BytesIO | None, str | None]:
        position, url = row
        body = answers.fetch(position, url)
        return (position, None, "failed") if body is None else (position, BytesIO(body), None)

    class Writer:
        def __init__(self, *_: Any) -> None:
            """Called with img2dataset's arguments for a writer; ours needs none."""

        def write(self, image: bytes | None, key: str, _caption: str | None, _meta: dict[str, Any]) -> None:
            if image is not None:
                answers.keep(int(key[-_KEY_DIGITS[1] :]), image)

        def close(self) -> None:
            """Nothing to do: the tar is written when all answers are there."""

    def silent(*_: Any, **__: Any) -> None:
        """Stands in for what would write to the terminal or to a file with times."""

    seam = {
        **vars(downloader),
        "download_image_with_retry": guarded,
        "write_stats": silent,
        "print": silent,
        "traceback": types.SimpleNamespace(print_exc=silent),
    }
    job = downloader.Downloader(
        sample_writer_class=Writer,
        resizer=resizer.Resizer(256, "no", False, disable_all_reencoding=True),  # hands the bytes through
        thread_count=answers.options.threads,
        save_caption=False,
        extract_exif=False,
        output_folder=str(scratch),
        column_list=["url"],
        timeout=answers.options.timeout_s,
        number_sample_per_shard=10 ** _KEY_DIGITS[1],
        oom_shard_count=_KEY_DIGITS[0],
        compute_hash=None,
        verify_hash_type=None,
        encode_format="jpg",
        retries=0,
        user_agent_token=None,
        disallowed_header_directives=None,
    )
    listed = scratch / "urls.feather"
    table = pa.table({"url": pa.array(answers.urls, pa.string())})
    with pa.OSFile(str(listed), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    types.FunctionType(downloader.Downloader.download_shard.__code__, seam)(job, (shard_id, str(listed)))
