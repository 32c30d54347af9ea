"""A labelled data set in folders: ``<root>/<split>/<class>/<image>``."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


@dataclass(frozen=True)
class Split:
    """The images of one split in the order of their paths.

    Attributes:
        name: "train" or "test".
        paths: the files.
        keys: ``<class>/<file name>`` of every file: its name in every record.
        labels: (n,) int64, index into ``ClassFolders.classes``.
        digests: SHA-256 (hex) of every file.
    """

    name: str
    paths: list[Path]
    keys: list[str]
    labels: np.ndarray
    digests: list[str]


@dataclass(frozen=True)
class ClassFolders:
    """A train and a test split over one list of classes."""

    name: str
    classes: list[str]
    train: Split
    test: Split

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over split, key and content digest of every image."""
        lines = [
            f"{split.name}/{key} {digest}"
            for split in (self.train, self.test)
            for key, digest in zip(split.keys, split.digests, strict=True)
        ]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @property
    def num_identical(self) -> int:
        """Test images whose bytes also lie in the train split."""
        known = set(self.train.digests)
        return sum(digest in known for digest in self.test.digests)


def read(root: str | Path) -> ClassFolders:
    """List and fingerprint a data set.

    Raises:
        ValueError: a folder is missing or holds no image, or a test class has no train images.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(
            f"data = {str(root)!r}: no such folder; pass data=FOLDER that holds train/<class>/ and test/<class>/"
        )
    names = {split: _classes(root, split) for split in ("train", "test")}
    unseen = sorted(set(names["test"]) - set(names["train"]))
    if unseen:
        raise ValueError(
            f"data = {str(root)!r}: the test class {unseen[0]!r} has no images under train/; "
            "k-NN cannot answer it: add train images or remove the class"
        )
    classes = names["train"]
    return ClassFolders(
        root.name, classes, _split(root, "train", classes), _split(root, "test", names["test"], classes)
    )


def _classes(root: Path, split: str) -> list[str]:
    folder = root / split
    if not folder.is_dir():
        raise ValueError(f"data = {str(root)!r}: the folder {split}/ is missing; expected {split}/<class>/*.jpg")
    names = sorted(c.name for c in folder.iterdir() if c.is_dir() and any(_images(c)))
    if not names:
        raise ValueError(f"{folder}: no images; expected {split}/<class>/*.jpg (also {', '.join(sorted(SUFFIXES))})")
    return names


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def _split(root: Path, split: str, names: list[str], classes: list[str] | None = None) -> Split:
    index = {name: i for i, name in enumerate(classes or names)}
    rows = [(path, name) for name in names for path in _images(root / split / name)]
    return Split(
        name=split,
        paths=[path for path, _ in rows],
        keys=[f"{name}/{path.name}" for path, name in rows],
        labels=np.array([index[name] for _, name in rows], dtype=np.int64),
        digests=[hashlib.sha256(path.read_bytes()).hexdigest() for path, _ in rows],
    )
