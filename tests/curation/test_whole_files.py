import fsspec
import pytest

from curation.whole_files import put_whole, whole_file


def test_a_file_is_whole_or_not_there(tmp_path):
    filesystem = fsspec.filesystem("file")

    def half() -> None:
        with whole_file(filesystem, str(tmp_path / "a")) as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert list(tmp_path.iterdir()) == []
    with whole_file(filesystem, str(tmp_path / "a")) as file:
        file.write(b"all")
        assert [path.name for path in tmp_path.iterdir()] != ["a"]
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"all")]


def test_a_file_takes_the_place_of_the_one_before_and_of_what_a_killed_process_left(tmp_path):
    filesystem = fsspec.filesystem("file")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "a.new").write_bytes(b"half of a killed attempt")
    for data in (b"first", b"then"):
        put_whole(filesystem, str(tmp_path / "new" / "a"), data)
        assert [(path.name, path.read_bytes()) for path in (tmp_path / "new").iterdir()] == [("a", data)]
