import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conf import entry_point


def end_of(main, capsys) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        entry_point(main)
    return ended.value.code, *capsys.readouterr()


def raising(error: BaseException):
    def main() -> int:
        raise error

    return main


def run(body: str, **streams) -> subprocess.CompletedProcess:
    """A command of its own, for what only the end of a process shows."""
    code = f"from conf import entry_point\ndef main():\n    {body}\nentry_point(main)"
    root = Path(__file__).resolve().parents[2]
    return subprocess.run([sys.executable, "-c", code], cwd=root, stderr=subprocess.PIPE, text=True, **streams)


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1), (3, 3)])
def test_the_code_is_what_main_returned(capsys, returned, code):
    assert end_of(lambda: returned, capsys) == (code, "", "")


def test_what_a_user_can_mend_is_one_sentence_without_a_traceback(capsys):
    assert end_of(raising(ValueError("store: x is no folder")), capsys) == (2, "", "error: store: x is no folder\n")


def test_a_missing_file_is_named(capsys, tmp_path):
    def main() -> None:
        (tmp_path / "absent").read_bytes()

    assert end_of(main, capsys) == (2, "", f"error: {tmp_path}/absent: No such file or directory\n")


def test_an_error_of_a_library_without_a_number_keeps_its_words(capsys):
    assert end_of(raising(OSError("Parquet magic bytes not found")), capsys)[2] == (
        "error: Parquet magic bytes not found\n"
    )


def test_the_traceback_is_there_for_whoever_asks(capsys, monkeypatch):
    monkeypatch.setenv("OPENLVD_TRACEBACK", "1")
    code, _, err = end_of(raising(ValueError("bad")), capsys)
    assert code == 2
    assert err.startswith("Traceback")
    assert err.endswith("error: bad\n")


def test_a_defect_keeps_its_traceback():
    with pytest.raises(KeyError):
        entry_point(raising(KeyError("a defect")))


def test_an_interrupt_says_how_to_go_on(capsys):
    code, _, err = end_of(raising(KeyboardInterrupt()), capsys)
    assert code == 128 + signal.SIGINT
    assert "continues" in err


def test_a_full_disk_under_the_output_is_one_sentence():
    with Path("/dev/full").open("w") as full:
        done = run("print('result')", stdout=full)
    assert done.returncode == 2
    assert done.stderr == "error: No space left on device; make room and run the same command again: it continues\n"


def test_a_reader_that_stops_early_is_no_defect():
    read, write = os.pipe()
    os.close(read)
    done = run("print('result')", stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")
