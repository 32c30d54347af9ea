"""One shard of URLs through img2dataset, with guarded requests and a writer of equal bytes for equal answers."""

import json
import tempfile
import types
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa

from curation.fetch.guard import Client
from curation.fetch.img2dataset_quiet import import_img2dataset
from curation.fetch.options import FetchOptions
from curation.fetch.outcome import Fetched, FetchError, Moved
from curation.fetch.permission import Permission
from curation.fetch.retry import pause_s
from curation.fetch.tars import TarWriter, extension
from curation.fetch.turns import Hosts, Turn, Turns
from curation.schema import Reason
from curation.store import locate
from curation.whole_files import whole_file

MAX_URLS_PER_SHARD = 100_000

_POSITION_DIGITS = 5
_SPOOL_BYTES = 64 << 20  # kept in memory while a shard is fetched; the rest waits in a temporary file


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one URL.

    Attributes:
        url: as asked for.
        final_url: behind the redirects that were followed; for a redirect that was not, its target; None for a failure.
        num_redirects: on the way to ``final_url``; 0 for a failure.
        has_moved: whether ``final_url`` is still to be asked.
        shard: file name of the tar, for a success.
        offset_bytes: of the body in the tar, for a success.
        size_bytes: of the body, for a success.
        reason: for a failure.
        detail: what the reason leaves open, the same for every repetition.
        rights: signals in the response headers.
    """

    url: str
    final_url: str | None = None
    num_redirects: int = 0
    has_moved: bool = False
    shard: str | None = None
    offset_bytes: int | None = None
    size_bytes: int | None = None
    reason: Reason | None = None
    detail: str | None = None
    rights: tuple[str, ...] = ()


class Fetcher:
    """What the shards of one task share: open connections, and when each host may be asked again.

    Args:
        options: limits and manners.
    """

    def __init__(self, options: FetchOptions) -> None:
        self.options = options
        self.client = Client(options)
        self.hosts = Hosts()

    def __enter__(self) -> "Fetcher":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.__exit__()

    def fetch_shard(self, urls: list[str], name: str, folder: str, permission: Permission) -> list[Outcome]:
        """Fetch URLs into ``<folder>/<name>.tar`` and tell what became of each, in the order given.

        The tar holds, for each success, ``<key>.<ext>`` with the bytes as sent, whether or not they are an image, and
        ``<key>.json``. Its bytes depend on the answers only. It appears under its name when it is complete; a
        repetition replaces it, and a shard without any success is written too.

        Args:
            urls: different ones, normalised, at most ``MAX_URLS_PER_SHARD``.
            name: of the shard in its run: letters, digits and dashes.
            folder: existing or not, local or an fsspec URI.
            permission: what may be asked.

        Raises:
            ValueError: too many URLs.
            OSError: the tar cannot be written.
        """
        if len(urls) > MAX_URLS_PER_SHARD:
            raise ValueError(f"{len(urls)} URLs in one shard; at most {MAX_URLS_PER_SHARD} fit, so use more shards")
        with (
            tempfile.TemporaryDirectory(prefix="openlvd-fetch-") as scratch,
            _Answers(urls, self, permission) as answers,
        ):
            if urls:
                _run_img2dataset(answers, Path(scratch))
            return answers.write_tar(name, folder)


class _Answers:
    """The answers of one shard as they arrive: bodies spooled in any order, written in the order of the URLs."""

    def __init__(self, urls: list[str], fetcher: Fetcher, permission: Permission) -> None:
        self.urls = urls
        self.options = fetcher.options
        self._client = fetcher.client
        self._permission = permission
        self._turns = Turns(urls, permission.pause_s, self.options.connections_per_host, fetcher.hosts)
        self._spool = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115 - closed by __exit__
        self._places: dict[int, tuple[int, int]] = {}
        self._answers: dict[int, Fetched | Moved | FetchError] = {}
        self._defect: Exception | None = None

    def __enter__(self) -> "_Answers":
        return self

    def __exit__(self, *_: object) -> None:
        self._spool.close()

    def next(self) -> tuple[int, bytes | None]:
        """Fetch whichever URL's turn it is, and give its position with its body, or without one where there is none.

        To be called as often as there are URLs. It never raises: img2dataset's pool would hang.
        """
        while True:
            turn = self._turns.take()
            try:
                answer = self._fetch(turn)
            except Exception as error:  # a defect of ours; write_tar raises it
                self._defect = error
                self._turns.done(turn.position)
                return turn.position, None
            if answer is None:
                continue
            self._turns.done(turn.position)
            if not isinstance(answer, Fetched):
                self._answers[turn.position] = answer
                return turn.position, None
            self._answers[turn.position] = replace(answer, body=b"", headers=[])
            return turn.position, answer.body

    def _fetch(self, turn: Turn) -> Fetched | Moved | FetchError | None:
        """One attempt; None where there will be another one."""
        url = self.urls[turn.position]
        try:
            return self._client.ask(url, self._permission.check, lambda _: self._turns.again(turn.position))
        except FetchError as error:
            pause = None if self._defect else pause_s(url, turn.failures + 1, error, self.options)
            host_pause = min(error.retry_after_s or 0.0, self.options.max_retry_after_s)
            if pause is None:
                self._turns.leave_alone(turn.position, host_pause)
                return error
            self._turns.put_back(turn, pause, host_pause)
            return None

    def keep(self, position: int, body: bytes) -> None:
        """Spool one body; img2dataset calls its writer from one thread, and swallows what it raises."""
        try:
            start = self._spool.seek(0, 2)
            self._spool.write(body)
        except Exception as error:  # such as a full disk; write_tar raises it
            self._defect = error
        else:
            self._places[position] = (start, len(body))

    def write_tar(self, shard: str, folder: str) -> list[Outcome]:
        """Write the tar under a name of this attempt, rename it, and return all outcomes."""
        if self._defect is not None:
            raise self._defect
        assert len(self._answers) == len(self.urls), "img2dataset lost an answer"
        filesystem, root = locate(folder)
        filesystem.makedirs(root, exist_ok=True)
        with whole_file(filesystem, f"{root}/{shard}.tar") as file:
            tar = TarWriter(file)
            outcomes = [self._write(tar, shard, position) for position in range(len(self.urls))]
            tar.close()
        return outcomes

    def _write(self, tar: TarWriter, shard: str, position: int) -> Outcome:
        url, answer = self.urls[position], self._answers[position]
        match answer:
            case FetchError():
                return Outcome(url, reason=answer.reason, detail=answer.message, rights=answer.rights)
            case Moved():
                return Outcome(url, answer.target, answer.num_redirects, has_moved=True)
        start, size = self._places[position]
        self._spool.seek(start)
        body = self._spool.read(size)
        key = f"{shard}-{position:0{_POSITION_DIGITS}d}"
        record = {"final_url": answer.final_url, "key": key, "rights": answer.rights, "url": url}
        offset = tar.add(f"{key}.{extension(body)}", body)
        tar.add(f"{key}.json", json.dumps(record, sort_keys=True).encode())
        return Outcome(
            url, answer.final_url, answer.num_redirects, False, f"{shard}.tar", offset, size, rights=answer.rights
        )


def _run_img2dataset(answers: _Answers, scratch: Path) -> None:
    """Run img2dataset's ``Downloader`` over the URLs.

    The seam is here and nowhere else: its ``download_shard`` (the pool of threads, the limit on what is in flight)
    runs with its module's globals, except that ``download_image_with_retry`` fetches whichever URL's turn it is (and
    says which that was), ``write_stats`` (which writes times) does nothing, and ``print`` and ``traceback`` are
    silent. The module itself stays as it is, so nothing else in the process changes.
    """
    downloader, resizer = import_img2dataset()

    def guarded(_row: tuple[int, str], **_: Any) -> tuple[int, BytesIO | None, str | None]:
        position, body = answers.next()
        return (position, None, "failed") if body is None else (position, BytesIO(body), None)

    class Writer:
        def __init__(self, *_: Any) -> None:
            """Called with img2dataset's arguments for a writer; ours needs none."""

        def write(self, image: bytes | None, key: str, _caption: str | None, _meta: dict[str, Any]) -> None:
            if image is not None:
                answers.keep(int(key[-_POSITION_DIGITS:]), image)

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
        number_sample_per_shard=10**_POSITION_DIGITS,
        oom_shard_count=1,
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
    types.FunctionType(downloader.Downloader.download_shard.__code__, seam)(job, (0, str(listed)))
