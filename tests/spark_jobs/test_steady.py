import errno
import io

import pytest

from spark_jobs.steady import SteadyFile

DATA = bytes(range(256)) * 40


class Shaky(io.BytesIO):
    """A file whose connection breaks at the given reads."""

    def __init__(self, data, reads):
        super().__init__(data)
        self.reads = reads

    def read(self, size=-1):
        if next(self.reads):
            raise ConnectionResetError("hung up")
        return super().read(min(size, 1000))


def shaky(*broken):
    """Opens :data:`DATA`; the reads of these numbers, counted over all openings, fail."""
    reads = (number in broken for number in range(10**6))
    return lambda _: Shaky(DATA, reads)


@pytest.mark.parametrize("broken", [(), (0,), (3, 4, 5), (2, 7, 8, 9, 11)])
def test_reading_goes_on_where_it_stopped(broken):
    with io.BufferedReader(SteadyFile("x", shaky(*broken), (0, 0, 0)), 700) as file:
        assert file.read() == DATA
        file.seek(-5, io.SEEK_END)
        assert file.read() == DATA[-5:]
        file.seek(300)
        assert file.read(4) == DATA[300:304]
        assert file.raw.failed is None


def test_the_last_failure_is_kept_for_whoever_takes_it_for_content():
    source = SteadyFile("http://host/a.warc", shaky(2, 3, 4), (0, 0))
    file = io.BufferedReader(source, 1000)
    assert file.read(2000) == DATA[:2000]
    with pytest.raises(OSError, match=r"cannot be read \(hung up\)"):
        file.read(1)
    assert "http://host/a.warc" in str(source.failed)


class AnswerError(Exception):
    def __init__(self, status):
        self.status = status


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileNotFoundError(errno.ENOENT, "x", "/secret/x"), FileNotFoundError),
        (PermissionError(errno.EACCES, "x", "/secret/x"), PermissionError),
        (IsADirectoryError(errno.EISDIR, "x", "/secret/x"), IsADirectoryError),
        (AnswerError(404), FileNotFoundError),
        (AnswerError(403), PermissionError),
    ],
)
def test_what_is_not_there_is_said_at_once_and_without_the_place(error, kind):
    asked = []

    def opener(uri):
        asked.append(uri)
        raise error

    with pytest.raises(kind) as raised:
        SteadyFile("x", opener, (0, 0))
    assert len(asked) == 1
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("cause", [AnswerError(503), AnswerError(429), TimeoutError(), ConnectionRefusedError()])
def test_a_host_that_cannot_say_is_asked_again_and_is_no_missing_file(cause):
    """fsspec's HTTP file system says FileNotFoundError of them all."""
    asked = []

    def opener(uri):
        asked.append(uri)
        raise FileNotFoundError(uri) from cause

    with pytest.raises(OSError, match="cannot be read") as raised:
        SteadyFile("x", opener, (0, 0))
    assert len(asked) == 3
    assert not isinstance(raised.value, FileNotFoundError)
