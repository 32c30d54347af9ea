import gzip
import hashlib

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spark_jobs.sources import SourceFile, fingerprint, in_tasks, list_all, list_files, read_lines, require_some


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return str(folder)


def test_names_are_relative_and_hidden_files_are_left_out(tmp_path):
    write(tmp_path / "a", b=b"1", **{".hidden": b"2"})
    write(tmp_path / "a" / "deep", c=b"3")
    assert [file.name for file in list_files(str(tmp_path / "a"))] == ["b", "deep/c"]
    assert [file.name for file in list_files(str(tmp_path / "a" / "deep" / "*"))] == ["c"]
    assert [file.name for file in list_files(str(tmp_path / "a" / "b"))] == ["b"]


def test_the_fingerprint_follows_content_and_name_but_not_place(tmp_path):
    one = fingerprint("images", {"x": write(tmp_path / "one", a=b"1", b=b"2")})
    assert fingerprint("images", {"x": write(tmp_path / "moved", a=b"1", b=b"2")}) == one
    changed = [
        fingerprint("images", {"y": str(tmp_path / "one")}),
        fingerprint("pages", {"x": str(tmp_path / "one")}),
        fingerprint("images", {"x": write(tmp_path / "content", a=b"1", b=b"3")}),
        fingerprint("images", {"x": write(tmp_path / "renamed", a=b"1", c=b"2")}),
        fingerprint("images", {"x": write(tmp_path / "shifted", a=b"12", b=b"")}),
    ]
    assert len({one, *changed}) == 6


def test_the_end_of_a_large_file_counts(tmp_path):
    big = bytes(200_000)
    one = fingerprint("pages", [write(tmp_path / "one", a=big)])
    assert fingerprint("pages", [write(tmp_path / "two", a=big[:-1] + b"x")]) != one


@pytest.mark.parametrize(("root", "said"), [("missing", "no such file"), ("empty", "is empty"), ("*.warc", "matches")])
def test_a_source_without_files_is_refused_by_name(tmp_path, root, said):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=said) as error:
        list_files(str(tmp_path / root))
    assert root in str(error.value)


NAMES = ["crawl-data/CC/segments/1/warc/a.warc.gz", "crawl-data/CC/segments/1/warc/b.warc.gz"]


def test_a_list_of_paths_names_its_files_below_the_root(tmp_path):
    write(tmp_path / "mirror" / "crawl-data/CC/segments/1/warc", **{"a.warc.gz": b"12345"})
    listed = (
        f"{write(tmp_path, **{'warc.paths.gz': gzip.compress(chr(10).join([*NAMES, '', NAMES[0]]).encode())})}/*.gz"
    )
    mirror = str(tmp_path / "mirror")
    assert [(f.name, f.uri, f.size_bytes) for f in list_all([listed], mirror + "/")] == [
        (NAMES[0], f"file://{mirror}/{NAMES[0]}", 5),
        (NAMES[1], f"file://{mirror}/{NAMES[1]}", None),
    ]
    assert [f.uri for f in list_all([listed], "memory://commoncrawl")] == [f"memory:///commoncrawl/{n}" for n in NAMES]
    with pytest.raises(ValueError, match=r"say below what they lie, as in sources\.paths_root=https://data"):
        list_all([listed])


def test_a_list_in_its_own_place_needs_no_root(tmp_path):
    write(tmp_path / "m/crawl-data/CC", **{"warc.paths": "\n".join(NAMES).encode()})
    found = list_all([str(tmp_path / "m/crawl-data/CC/warc.paths")])
    assert [file.uri for file in found] == [f"file://{tmp_path}/m/{name}" for name in NAMES]
    (only,) = list_all([str(tmp_path / "m")])
    assert only.name == "crawl-data/CC/warc.paths", "in a folder it is a file like others"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\n../b", "line 2: '../b'"),
        ("/etc/x", "line 1"),
        ("s3://a/b", "line 1"),
        ("\n", "is empty"),
        ("a/../../b", "1"),
    ],
)
def test_a_list_of_paths_stays_below_its_root(tmp_path, text, said):
    write(tmp_path, **{"warc.paths": text.encode()})
    with pytest.raises(ValueError, match=said):
        list_all([str(tmp_path / "warc.paths")], "memory://root")


def test_a_list_of_paths_is_told_apart_by_names_and_local_sizes(tmp_path):
    roots = [f"{write(tmp_path, **{'x.paths': NAMES[0].encode()})}/x.paths"]
    write(tmp_path / "other", **{"y.paths": NAMES[0].encode() + b"\n"})
    remote = fingerprint("pages", roots, "memory://nowhere")
    assert fingerprint("pages", [f"{tmp_path}/other/y.paths"], "memory://elsewhere") == remote
    write(tmp_path / "other", **{"y.paths": NAMES[1].encode()})
    assert fingerprint("pages", [f"{tmp_path}/other/y.paths"], "memory://elsewhere") != remote
    assert fingerprint("pages", roots, str(tmp_path)) == remote, "not there yet"
    write((tmp_path / NAMES[0]).parent, **{"a.warc.gz": b"1"})
    assert fingerprint("pages", roots, str(tmp_path)) != remote


def test_if_nothing_is_there_the_root_is_named(tmp_path):
    write(tmp_path, **{"x.paths": "\n".join(f"{number}.warc" for number in range(1000)).encode()})
    files = list_all([str(tmp_path / "x.paths")], "memory://empty")
    with pytest.raises(ValueError, match=r"memory:///empty/0\.warc: not there, .* check sources\.paths_root"):
        require_some(files)
    require_some([*files, SourceFile("there.warc", "memory://there.warc", 5, listed=True)])
    fsspec.filesystem("memory").pipe("/empty/0.warc", b"1")
    require_some(files)


class Bucket(fsspec.AbstractFileSystem):
    """An object store whose listing tells sizes and digests; nothing in it may be opened."""

    protocol = "bucket"
    files: dict[str, bytes] = {}

    def ls(self, path, **_):
        path = self._strip_protocol(path)
        if not path:
            return [{"name": "crawl", "size": 0, "type": "directory"}]
        if path != "crawl":
            raise FileNotFoundError(path)
        return [
            {"name": f"crawl/{name}", "size": len(data), "type": "file", "ETag": hashlib.md5(data).hexdigest()}
            for name, data in self.files.items()
        ]

    def open(self, *_, **__):
        raise AssertionError("a file was asked for")


def test_an_object_store_is_told_apart_by_its_listing():
    fsspec.register_implementation("bucket", Bucket, clobber=True)

    def found(root="bucket://crawl", **files):
        Bucket.files = files
        return fingerprint("pages", [root])

    one = found(a=b"1", b=b"22")
    assert found(b=b"22", a=b"1") == one
    assert found("bucket://crawl/*", a=b"1", b=b"22") == one
    assert len({one, found(a=b"2", b=b"22"), found(a=b"1", c=b"22"), found(a=b"11", b=b"22")}) == 4


def test_every_byte_of_a_list_of_rules_counts(tmp_path):
    lines = [f"site{number}.org" for number in range(50_000)]
    write(tmp_path, one="\n".join(lines).encode())
    one = fingerprint("lists", {"x": str(tmp_path / "one")})
    lines[25_000] = "sitexxxxx.org"
    write(tmp_path, two="\n".join(lines).encode(), three=gzip.compress("\n".join(lines).encode()))
    two = fingerprint("lists", {"x": str(tmp_path / "two")})
    assert two != one
    assert fingerprint("lists", {"x": str(tmp_path / "three")}) == two


def test_text_may_be_damaged_or_missing(tmp_path):
    write(tmp_path, cut=gzip.compress(b"a" * 100)[:-9], latin="caf\xe9.org\n".encode("latin-1"))
    with pytest.raises(ValueError, match="damaged gzip"):
        read_lines(str(tmp_path / "cut"))
    with pytest.raises(ValueError, match="no such file"):
        read_lines(str(tmp_path / "none"))
    assert list(read_lines(str(tmp_path / "latin"))) == ["caf\ufffd.org\n"]


SIZES = st.lists(st.none() | st.sampled_from([0, 1, 1000, 1 << 24, 40 << 20, 1 << 30]), max_size=40)


@given(SIZES, st.integers(1, 16))
def test_a_task_reads_one_file_or_small_ones(sizes, at_least):
    files = [SourceFile(str(number), "", size) for number, size in enumerate(sizes)]
    tasks = in_tasks(files, at_least)
    assert [file for task in tasks for file in task] == files
    for task in tasks:
        assert task
        if len(task) > 1:
            assert all(file.size_bytes is not None and file.size_bytes < 32 << 20 for file in task)
            assert sum(file.size_bytes for file in task[:-1]) < 32 << 20


def test_small_files_are_spread_over_the_cores():
    files = [SourceFile(str(number), "", 10_000) for number in range(15)]
    assert [len(task) for task in in_tasks(files, 4)] == [4, 4, 4, 3]
    assert len(in_tasks(files[:3], 4)) == 3
    assert in_tasks([], 4) == []
