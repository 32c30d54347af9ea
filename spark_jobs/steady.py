"""Reading an input file through failures that pass.

A file that is not there, or not ours to read, is an answer about this file. A host that hangs up is none: the same
bytes are asked for again, and if that does not help the task must fail, so that Spark tries it again elsewhere, rather
than half a file pass for the whole.
"""

import contextlib
import errno
import io
import time
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

from curation.store import open_uri

PAUSES_S = (1.0, 4.0, 16.0)
_WORDS = {
    FileNotFoundError: "no such file",
    NotADirectoryError: "no such file",
    PermissionError: "not ours to read",
    IsADirectoryError: "a folder, not a file",
}


class SteadyFile(io.RawIOBase):
    """A file that goes on where it stopped when a read fails.

    Args:
        uri: path or URI of the file.
        opener: opens it; called again after every failure.
        pauses_s: seconds before each further attempt.

    Attributes:
        failed: the error that the last attempt ended in, which whoever parses the file may have taken for its content.

    Raises:
        FileNotFoundError: there is no such file.
        PermissionError: it is not ours to read.
        OSError: anything else, after the last attempt.
    """

    def __init__(
        self, uri: str, opener: Callable[[str], BinaryIO] = open_uri, pauses_s: Sequence[float] = PAUSES_S
    ) -> None:
        self.failed: OSError | None = None
        self._uri, self._opener, self._pauses_s = uri, opener, pauses_s
        self._at = 0
        self._was_open = False
        self._file: BinaryIO | None = None
        self._attempt(lambda _: b"")

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The offset of the next byte."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to another offset."""
        if whence == io.SEEK_SET:
            self._at = offset
        elif whence == io.SEEK_CUR:
            self._at += offset
        else:
            self._at = self._attempt(lambda file: file.seek(offset, io.SEEK_END))
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, or as much of it as there is."""
        data = self._attempt(lambda file: file.read(len(buffer)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        """Close the file beneath."""
        self._drop()
        super().close()

    def _attempt(self, action: Callable[[BinaryIO], Any]) -> Any:
        for pause_s in (*self._pauses_s, None):
            try:
                if self._file is None:
                    self._file = self._opener(self._uri)
                if self._file.tell() != self._at:
                    self._file.seek(self._at)
                self._was_open = True
                return action(self._file)
            except Exception as error:  # each file system has its own
                self._drop()
                if not self._was_open and (absent := _absence(error)) is not None:
                    raise absent from error
                if pause_s is None:
                    said = " ".join(str(error).split())[:200] or type(error).__name__
                    self.failed = OSError(f"{self._uri}: cannot be read ({said}); the same command tries again")
                    raise self.failed from error
                time.sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")

    def _drop(self) -> None:
        if self._file is not None:
            with contextlib.suppress(Exception):
                self._file.close()
            self._file = None


def _absence(error: Exception) -> OSError | None:
    """The error, if it says that a file is not there or not ours to read, and not merely that nobody could tell.

    fsspec's HTTP file system raises FileNotFoundError whatever went wrong, from the error that tells.
    """
    cause = error.__cause__
    status = getattr(cause or error, "status", None)
    if status in (401, 403, 451):
        return PermissionError(errno.EACCES, f"not ours to read (HTTP {status})")
    if status in (400, 404, 410):
        return FileNotFoundError(errno.ENOENT, f"no such file (HTTP {status})")
    if status is not None or type(cause).__module__.partition(".")[0] == "aiohttp":
        return None
    if isinstance(cause, (TimeoutError, ConnectionError)):
        return None
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return FileNotFoundError(errno.ENOENT, "a link in a circle")
    return next((kind(errno.ENOENT, words) for kind, words in _WORDS.items() if isinstance(error, kind)), None)
