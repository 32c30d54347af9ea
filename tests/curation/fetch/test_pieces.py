import pyarrow as pa

from curation.fetch.pieces import landed, remove_partial

ROWS = pa.table({"url": ["a", "b"], "answer": [1, 2]})


def test_what_landed_is_not_made_again(tmp_path):
    path = str(tmp_path / "new" / "0.parquet")
    assert landed(path, "url", ["a", "b"], lambda: ROWS) == ROWS

    def again():
        raise AssertionError("made twice")

    assert landed(path, "url", ["a", "b"], again) == ROWS


def test_a_piece_about_something_else_is_made_again(tmp_path):
    path = str(tmp_path / "0.parquet")
    landed(path, "url", ["a", "b"], lambda: ROWS)
    other = pa.table({"url": ["a"], "answer": [3]})
    assert landed(path, "url", ["a"], lambda: other) == other
    assert landed(path, "url", ["a"], lambda: ROWS) == other


def test_what_killed_attempts_left_is_removed_and_nothing_else(tmp_path):
    for name in (".a.tar.0123.part", "a.tar", ".hidden", "b.part"):
        (tmp_path / name).write_bytes(b"")
    remove_partial(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "a.tar", "b.part"]
    remove_partial(str(tmp_path / "missing"))


def test_a_folder_whose_name_looks_like_a_chain_is_that_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    landed("a::b/0.parquet", "url", ["a", "b"], lambda: ROWS)
    (tmp_path / "a::b" / ".0.tar.0123.part").write_bytes(b"")
    remove_partial("a::b")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["a::b", "a::b/0.parquet"]
