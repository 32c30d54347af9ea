"""The labelled copies of the real data, as paths and truth."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tests.benchmarks._copy_edits import EDITS, edited, generator

REFERENCES = "imagenet_samples/resized"
NONE = "none"
EXACT, RETOUCHED = ("duplicate", "exact", "hflip", "crop", "hflip+crop"), ("edited", "composite")


@dataclass(frozen=True)
class CopySet:
    """Queries, and which reference each was made from.

    Attributes:
        queries: [q] files.
        references: [r] files.
        truth: [q] int64, row of the right reference, -1 where there is none.
        kinds: [q] str, the edit.
        sources: [q] int64, the same for queries made from the same picture.
    """

    queries: list[Path]
    references: list[Path]
    truth: np.ndarray
    kinds: np.ndarray
    sources: np.ndarray

    def right(self) -> np.ndarray:
        """[q, r] bool."""
        return self.truth[:, None] == np.arange(len(self.references))

    def of_kind(self, kind: str) -> np.ndarray:
        """[q] bool."""
        return self.kinds == kind


@dataclass(frozen=True)
class PairSet:
    """Pairs among the pictures of one folder; ``pairs`` [m, 2] int64 and ``kinds`` [m] str."""

    pictures: list[Path]
    pairs: np.ndarray
    kinds: np.ndarray


def copy_detection(data: Path) -> CopySet:
    """The folder's 400 queries: 30 references and 10 other pictures under ten edits."""
    rows = _rows(data / "copy_detection/ground_truth.tsv")
    # which of the ten other pictures a query shows is not told: each counts as one of its own
    sources = [row["query"] if row["reference"] == NONE else row["reference"] for row in rows]
    queries = [data / "copy_detection/queries" / row["query"] for row in rows]
    return _copy_set(data, queries, [row["reference"] for row in rows], [row["transform"] for row in rows], sources)


def further_edits(data: Path, folder: Path, seed: int, edits: Sequence[str] = tuple(EDITS)) -> CopySet:
    """More edits, of pictures that the descriptor's training holds out; the queries are written below ``folder``.

    Those with a reference are named in ``copy_detection`` or ``crossres_duplicates``; those without in
    ``near_duplicates.tsv``, which also give backgrounds and the other tiles of collages.
    """
    named = {row["reference"] for row in _rows(data / "copy_detection/ground_truth.tsv")} - {NONE}
    named |= {row["large"] for row in _rows(data / "crossres_duplicates/pairs.tsv")}
    near = sorted({row[key] for row in _rows(data / "web_animals/near_duplicates.tsv") for key in "ab"})
    others = {name: _picture(data / "web_animals/images" / name) for name in near}
    sources = [(name, name, _picture(data / name)) for name in sorted(named)]
    sources += [(name, NONE, picture) for name, picture in others.items()]
    queries, references, kinds, owners = [], [], [], []
    for edit in edits:
        for name, reference, picture in sources:
            rest = [other for key, other in others.items() if key != name]
            queries.append(folder / f"{edit}-{Path(name).stem}.jpg")
            queries[-1].write_bytes(edited(edit, picture, rest, generator(seed, edit, name)))
            references.append(reference)
            kinds.append(edit)
            owners.append(name)
    return _copy_set(data, queries, references, kinds, owners)


def crossres(data: Path) -> CopySet:
    """ImageNet samples and their 64-pixel versions."""
    rows = _rows(data / "crossres_duplicates/pairs.tsv")
    large = [row["large"] for row in rows]
    return _copy_set(data, [data / row["small"] for row in rows], large, ["crossres"] * len(rows), large)


def natural(data: Path) -> PairSet:
    """Duplicates that a web search brought up, among 800 pictures."""
    pictures = sorted((data / "web_animals/images").iterdir())
    place = {path.name: i for i, path in enumerate(pictures)}
    rows = _rows(data / "web_animals/near_duplicates.tsv")
    pairs = np.array([sorted((place[row["a"]], place[row["b"]])) for row in rows])
    return PairSet(pictures, pairs, np.array([row["kind"] for row in rows]))


def natural_small(data: Path) -> PairSet:
    """Duplicates that CIFAR-10 holds, of 32 pixels, among every sixth of its pictures."""
    root = data / "cifar10"
    rows = _rows(root / "natural_duplicates.tsv")
    named = {root / row[key] for row in rows for key in "ab"}
    pictures = sorted(named | set(sorted(root.rglob("*.jpg"))[::6]))
    place = {path: i for i, path in enumerate(pictures)}
    pairs = np.array([sorted((place[root / row["a"]], place[root / row["b"]])) for row in rows])
    return PairSet(pictures, pairs, np.array([row["kind"] for row in rows]))


def dedup_cases(data: Path) -> PairSet:
    """imagededup's test pictures: copies of one object, ten different objects, and one damaged file."""
    folder = data / "dedup_cases"
    truth = json.loads((folder / "ground_truth.json").read_text(encoding="utf-8"))
    base = sorted((folder / "base_images").iterdir())
    first, formats = base[0].parent / "ukbench00120.jpg", folder / "formats_images"
    copies = [(first, folder / "mixed_images" / name) for name in truth["mixed_images"]["ukbench00120.jpg"]]
    copies.append((first, folder / "ukbench00120_gray.jpg"))
    jpeg = formats / "ukbench09380.jpeg"
    copies += [(base[0].parent / "ukbench09380.jpg", jpeg), (jpeg, formats / "ukbench09380.webp")]
    different = [(a, b) for i, a in enumerate(base) for b in base[i + 1 :]]
    damaged = folder / "mixed_images/ukbench09268_corrupt.jpg"  # of no pair: it counts among the unreadable
    pictures = sorted({damaged, *(path for pair in (*copies, *different) for path in pair)})
    pairs = np.array([[pictures.index(path) for path in pair] for pair in (*copies, *different)])
    return PairSet(pictures, pairs, np.array(["copy"] * len(copies) + ["different"] * len(different)))


def background(data: Path, folders: Sequence[str]) -> list[Path]:
    """Pictures that are neither references nor named as anybody's copy, for score normalisation.

    Raises:
        ValueError: a folder holds no picture.
    """
    near = {row[key] for row in _rows(data / "web_animals/near_duplicates.tsv") for key in "ab"}
    small = {Path(row["small"]).name for row in _rows(data / "crossres_duplicates/pairs.tsv")}
    found: list[Path] = []
    for folder in folders:
        paths = [
            path for path in sorted((data / folder).rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg", ".png")
        ]
        if not paths:
            raise ValueError(f"--background {folder}: no picture below {data / folder}; name a folder that holds some")
        found += [path for path in paths if path.name not in near | small]
    return found


def _copy_set(
    data: Path, queries: list[Path], references: Sequence[str], kinds: Sequence[str], sources: Sequence[str]
) -> CopySet:
    base = sorted((data / REFERENCES).iterdir())
    row = {f"{REFERENCES}/{path.name}": i for i, path in enumerate(base)} | {NONE: -1}
    truth = np.array([row[name] for name in references])
    return CopySet(queries, base, truth, np.array(kinds), np.unique(sources, return_inverse=True)[1])


def _picture(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise ValueError(f"{path}: no such list of copies; give the folder that holds {path.parent.name}")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))
