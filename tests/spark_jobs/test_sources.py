import pytest

from spark_jobs.sources import fingerprint, list_files


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
