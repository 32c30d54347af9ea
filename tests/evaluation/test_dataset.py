import pytest

from evaluation import dataset


def put(root, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def test_labels_follow_the_train_classes_even_where_test_lacks_one(tmp_path):
    put(tmp_path, "train/a/0.jpg", "train/b/0.jpg", "train/c/0.png", "train/c/note.txt", "test/c/1.jpg")
    data = dataset.read(tmp_path)
    assert data.classes == ["a", "b", "c"]
    assert data.train.labels.tolist() == [0, 1, 2]
    assert data.test.labels.tolist() == [2]
    assert data.test.keys == ["c/1.jpg"]


def test_fingerprint_sees_content_names_and_splits(tmp_path):
    put(tmp_path, "train/a/0.jpg", "test/a/1.jpg")
    before = dataset.read(tmp_path).fingerprint
    assert dataset.read(tmp_path).fingerprint == before
    (tmp_path / "test/a/1.jpg").write_bytes(b"other")
    changed = dataset.read(tmp_path).fingerprint
    (tmp_path / "test/a/1.jpg").rename(tmp_path / "test/a/2.jpg")
    assert len({before, changed, dataset.read(tmp_path).fingerprint}) == 3


def test_identical_files_across_the_splits_are_counted(tmp_path):
    put(tmp_path, "train/a/0.jpg", "test/a/1.jpg", "test/a/2.jpg")
    (tmp_path / "test/a/2.jpg").write_bytes(b"train/a/0.jpg")
    assert dataset.read(tmp_path).num_identical == 1


@pytest.mark.parametrize(
    ("present", "message"),
    [
        ([], "no such folder; pass data="),
        (["train/a/0.jpg"], "the folder test/ is missing"),
        (["train/a/0.jpg", "test/a/readme.txt"], "no images; expected test/<class>"),
        (["train/a/0.jpg", "test/b/0.jpg"], "test class 'b' has no images under train/"),
    ],
)
def test_what_is_missing_is_named_with_the_remedy(tmp_path, present, message):
    root = tmp_path / "data"
    put(root, *present)
    with pytest.raises(ValueError, match=message):
        dataset.read(root)
