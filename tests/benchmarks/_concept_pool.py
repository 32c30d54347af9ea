"""A pool whose concepts are known: CIFAR-10 made long-tailed, edited copies of it, and pictures of other things.

A picture's class is for judging alone; curation sees files, and a few query pictures of every class.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tests.benchmarks._copy_edits import edited, generator

OFF_TOPIC = -1
NUM_CLASSES = 10
_IMBALANCE = 100  # pictures of the most frequent class for one of the rarest
_NUM_LARGEST = 1000
_NUM_COPIES = 600  # drawn picture by picture, so most are of the frequent classes, as on the web
_SIDE = 32
_EDITS = ("thumbnail", "noise", "grey", "hue", "posterise")
_THINGS = (  # classes of Tiny ImageNet that are neither animals nor vehicles
    "n02666196", "n02699494", "n02769748", "n02788148", "n02791270", "n02892201", "n02906734", "n02909870",
    "n02927161", "n02999410", "n03026506", "n03179701", "n03424325", "n03544143", "n03584254", "n03706229",
    "n03804744", "n03937543", "n03970156", "n03983396", "n04070727", "n04099969", "n04311004", "n04371430",
    "n04398044", "n04532106", "n07583066", "n07715103", "n07753592", "n09332890",
)  # fmt: skip


@dataclass(frozen=True)
class ConceptPool:
    """Files in an order that says nothing.

    Attributes:
        files: [n] encoded pictures.
        labels: [n] class number, ``OFF_TOPIC`` for other things.
        is_copy: [n] bool, edited copies of other files of the pool.
    """

    files: list[Path]
    labels: np.ndarray
    is_copy: np.ndarray

    def __len__(self) -> int:
        return len(self.files)


def concept_pool(data: Path, folder: Path, seed: int) -> ConceptPool:
    """Draw a pool: which class is how frequent, which pictures, and which of them have copies.

    Args:
        data: holds ``cifar10`` and ``tiny_imagenet``.
        folder: for the files of copies and of reduced pictures; what is there already is not written again.
        seed: of the draw.

    Raises:
        ValueError: a class has no pictures.
    """
    rng = generator(seed, "concept pool")
    classes = rng.permutation(class_names(data))  # from the most frequent to the rarest
    counts = np.rint(_NUM_LARGEST * _IMBALANCE ** (-np.arange(NUM_CLASSES) / (NUM_CLASSES - 1))).astype(int)
    numbers = {name: number for number, name in enumerate(class_names(data))}
    files, labels = [], []
    for name, count in zip(classes, counts, strict=True):
        there = pictures(data / "cifar10" / "train" / name)
        files += [there[i] for i in rng.permutation(len(there))[:count]]
        labels += [numbers[name]] * min(count, len(there))
    originals = rng.choice(len(files), _NUM_COPIES, replace=False)
    copies = [_copied(files[i], folder / f"copies_{seed}", rng) for i in originals]
    others = [path for name in _THINGS for path in pictures(data / "tiny_imagenet" / "train" / name)]
    others = [_reduced(path, folder / "off_topic") for path in others]
    every = [*files, *copies, *others]
    known = np.concatenate([labels, np.asarray(labels)[originals], np.full(len(others), OFF_TOPIC)])
    is_copy = np.repeat([False, True, False], [len(files), len(copies), len(others)])
    order = rng.permutation(len(every))
    return ConceptPool([every[i] for i in order], known[order], is_copy[order])


def queries(data: Path, per_class: int, seed: int) -> list[Path]:
    """As many test pictures of every class, those that curation is shown."""
    rng = generator(seed, "queries")
    drawn = []
    for name in class_names(data):
        there = pictures(data / "cifar10" / "test" / name)
        drawn += [there[i] for i in sorted(rng.permutation(len(there))[:per_class])]
    return drawn


def class_names(data: Path) -> list[str]:
    """The ten classes, by name."""
    return sorted(path.name for path in (data / "cifar10" / "train").iterdir() if path.is_dir())


def pictures(folder: Path) -> list[Path]:
    """The pictures of a class, by name.

    Raises:
        ValueError: there are none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not found:
        raise ValueError(f"{folder}: no pictures; name the folder that holds cifar10 and tiny_imagenet")
    return found


def _copied(path: Path, folder: Path, rng: np.random.Generator) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / f"{path.parent.name}_{path.stem}.jpg"
    data = edited(_EDITS[int(rng.integers(len(_EDITS)))], Image.open(path), [], rng)
    place.write_bytes(data)
    return place


def _reduced(path: Path, folder: Path) -> Path:
    """The picture at CIFAR's size, so that size tells nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / f"{path.stem}.png"
    if not place.exists():
        Image.open(path).convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX).save(place)
    return place
