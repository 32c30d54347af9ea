import io
import json
import tarfile

import pytest

from curation.fetch import retry as retry_module
from curation.fetch import shard as shard_module
from curation.fetch.permission import Permission
from curation.fetch.shard import MAX_URLS_PER_SHARD, Fetcher
from curation.schema import Reason
from tests.curation.fetch.hostile import GOOD

URLS = [
    *(f"http://garden.test/good?{n}" for n in range(30)),
    "http://garden.test/missing",
    "http://garden.test/html",
    "http://garden.test/empty",
    "http://garden.test/reserved",
    "http://garden.test/optout?noai",
    "http://garden.test/short",
    "http://garden.test/redirect?http://10.0.0.1/",
    "http://10.0.0.1/",
    "http://garden.test/redirect?/good",
]


def fetch_shard(urls, name, folder, options, blocked=lambda _: None):
    with Fetcher(options) as fetcher:
        return fetcher.fetch_shard(urls, name, str(folder), Permission({}, blocked, options, fail_closed=True))


def test_equal_bytes_for_any_number_of_threads(tmp_path, options):
    runs = []
    for threads in (1, 3, 16):
        folder = tmp_path / str(threads)
        outcomes = fetch_shard(URLS, "0-7", folder, options.model_copy(update={"threads": threads}))
        assert [path.name for path in folder.iterdir()] == ["0-7.tar"]
        runs.append((outcomes, (folder / "0-7.tar").read_bytes()))
    assert runs[0] == runs[1] == runs[2]


def test_every_url_has_its_outcome_and_its_bytes(tmp_path, options):
    outcomes = fetch_shard(URLS, "0-7", str(tmp_path), options)
    assert [outcome.url for outcome in outcomes] == URLS
    tar = (tmp_path / "0-7.tar").read_bytes()
    got = {o.url.removeprefix("http://garden.test"): o for o in outcomes}
    for path, body in {
        "/good?3": GOOD + b"/good?3",
        "/html": b"<html>not a picture</html>",
        "/empty": b"",
        "/reserved": GOOD,
        "/redirect?/good": GOOD + b"/good",
    }.items():
        outcome = got[path]
        assert outcome.reason is None
        assert outcome.size_bytes == len(body)
        assert tar[outcome.offset_bytes : outcome.offset_bytes + outcome.size_bytes] == body
    assert got["/reserved"].rights == ("header:tdm-reservation",)
    assert got["/optout?noai"].rights == ("header:noai",)
    reasons = {path: outcome.reason for path, outcome in got.items() if outcome.reason}
    assert reasons == {
        "/missing": Reason.HTTP_ERROR,
        "/optout?noai": Reason.HEADER_OPTED_OUT,
        "/short": Reason.INCOMPLETE_BODY,
        "http://10.0.0.1/": Reason.PRIVATE_ADDRESS,
    }
    assert all(got[path].offset_bytes is None and got[path].shard is None for path in reasons)


def test_the_tar_is_a_webdataset_without_times(tmp_path, options):
    fetch_shard(URLS, "0-7", tmp_path, options)
    with tarfile.open(tmp_path / "0-7.tar") as tar:
        members = tar.getmembers()
        names = [member.name for member in members]
        assert names == sorted(names, key=lambda name: name.split(".")[0])
        assert all((m.mtime, m.uid, m.gid, m.uname, m.gname) == (0, 0, 0, "", "") for m in members)
        assert names[:2] == ["0-7-00000.jpg", "0-7-00000.json"]
        assert "0-7-00031.bin" in names
        record = json.load(tar.extractfile("0-7-00000.json"))
        assert record == {"final_url": URLS[0], "key": "0-7-00000", "rights": [], "url": URLS[0]}
    import webdataset

    samples = list(webdataset.WebDataset(f"file:{tmp_path}/0-7.tar", shardshuffle=False))
    assert samples[0]["jpg"] == GOOD + b"/good?0"
    assert len(samples) == 34


def test_nothing_is_printed(tmp_path, options, capfd):
    fetch_shard(URLS[-8:], "0", tmp_path, options)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_the_module_of_img2dataset_stays_as_it_is(tmp_path, options):
    from img2dataset import downloader

    before = dict(vars(downloader))
    fetch_shard(URLS[:2], "0", tmp_path, options)
    assert vars(downloader) == before


def test_a_repetition_replaces_what_is_there(tmp_path, options):
    (tmp_path / "0.tar").write_bytes(b"half written")
    (tmp_path / ".0.tar.0.part").write_bytes(b"of an attempt that was killed")
    fetch_shard(URLS[:2], "0", tmp_path, options)
    with tarfile.open(tmp_path / "0.tar") as tar:
        assert len(tar.getnames()) == 4


def test_no_success_and_no_url_are_empty_tars(tmp_path, options):
    assert [o.reason for o in fetch_shard(["http://garden.test/missing"], "1", tmp_path, options)] == [
        Reason.HTTP_ERROR
    ]
    assert fetch_shard([], "2", tmp_path, options) == []
    for name in ("1.tar", "2.tar"):
        with tarfile.open(tmp_path / name) as tar:
            assert tar.getnames() == []


def test_what_may_pass_is_tried_again_and_the_rest_is_not(tmp_path, options, server, monkeypatch):
    monkeypatch.setattr(retry_module, "_FIRST_PAUSE_S", 0.0)
    urls = [f"http://garden.test/{path}" for path in ("status?503", "status?404", "short", "optout?noai")]
    fetch_shard(urls, "0", tmp_path, options.model_copy(update={"retries": 2}))
    asked = sorted(path for _, path, _ in server.requests)
    assert asked == ["/optout?noai"] + ["/short"] * 3 + ["/status?404"] + ["/status?503"] * 3


def test_a_disk_that_is_full_is_an_error_and_leaves_nothing(tmp_path, options, monkeypatch):
    def full(self, name, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shard_module.TarWriter, "add", full)
    with pytest.raises(OSError, match="No space"):
        fetch_shard(URLS[:2], "0", tmp_path, options)
    assert list(tmp_path.iterdir()) == []


def test_a_spool_that_is_full_is_an_error(tmp_path, options, monkeypatch):
    class Full(io.BytesIO):
        def write(self, _):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(shard_module.tempfile, "SpooledTemporaryFile", lambda **_: Full())
    with pytest.raises(OSError, match="No space"):
        fetch_shard(URLS[:2], "0", tmp_path, options)


def test_a_defect_neither_hangs_nor_hides(tmp_path, options, monkeypatch):
    def broken(*_):
        raise RuntimeError("a defect")

    monkeypatch.setattr(shard_module.Client, "ask", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        fetch_shard(URLS, "0", tmp_path, options)


def test_too_many_urls_are_refused(tmp_path, options):
    with pytest.raises(ValueError, match="use more shards"):
        fetch_shard(["http://garden.test/"] * (MAX_URLS_PER_SHARD + 1), "0", tmp_path, options)
