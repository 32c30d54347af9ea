"""Pictures in memory, and the views of one step: a pure function of the pictures, the recipe and the step."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from training.copies import augment
from training.copies.config import Data, Recipe

Pixels = np.ndarray  # uint8 [height, width, 3], RGB
SHORT_SIDE = 288  # pixels kept of a larger picture
SUFFIXES = {".jpg", ".jpeg", ".png"}


@dataclass(frozen=True)
class Pool:
    """The decoded pictures of one folder."""

    name: str
    share: float
    pictures: tuple[Pixels, ...]


def read_pools(data: Data) -> list[Pool]:
    """Decode every picture that is not held out, in order of name.

    Raises:
        ValueError: a list of held-out pictures or a folder is missing, or a folder has no picture left.
    """
    root = Path(data.root)
    held_out = {name for listing in data.hold_out for name in _names(root / listing)}
    pools = []
    for folder in data.folders:
        paths = sorted(path for path in (root / folder.path).rglob("*") if path.suffix.lower() in SUFFIXES)
        paths = [path for path in paths[:: folder.every] if path.name not in held_out]
        if not paths:
            raise ValueError(f"{root / folder.path}: no pictures to train on; set data.root=FOLDER")
        pools.append(Pool(folder.path, folder.share, tuple(_read(path) for path in paths)))
    return pools


class Steps(Dataset[tuple[Tensor, Tensor]]):
    """Views [2n, size, size, 3] uint8 and contents [2n, 2] int64 of each step from ``first`` on."""

    def __init__(self, pools: Sequence[Pool], recipe: Recipe, first: int = 0) -> None:
        self.pools, self.recipe, self.first = pools, recipe, first

    def __len__(self) -> int:
        return self.recipe.steps - self.first

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index >= len(self):
            raise IndexError(index)
        cv2.setNumThreads(0)  # the workers are the parallelism
        rng = np.random.default_rng((self.recipe.seed, self.first + index))
        sources = draw_sources(self.pools, self.recipe, rng)
        edits, done = self.recipe.edits, (self.first + index) / self.recipe.steps
        strength = min(1.0, 0.3 + 0.7 * done / edits.easy) if edits.easy else 1.0
        views, contents = augment.views(sources, self._backgrounds(len(sources), rng), edits, strength, rng)
        return torch.from_numpy(views), torch.from_numpy(contents)

    def _backgrounds(self, num: int, rng: np.random.Generator) -> list[Pixels]:
        pool = self.pools[0].pictures
        return [pool[i] for i in rng.integers(len(pool), size=num)]


def draw_sources(pools: Sequence[Pool], recipe: Recipe, rng: np.random.Generator) -> list[Pixels]:
    """``sources_per_step`` regions of pictures, no two of which share a pixel.

    A share of the larger pictures gives two disjoint tiles: the negatives that look most like copies.
    """
    sources: list[Pixels] = []
    wanted = np.rint(np.cumsum([pool.share for pool in pools]) * recipe.sources_per_step)
    for pool, total in zip(pools, wanted, strict=True):
        order = iter(rng.permutation(len(pool.pictures)))
        while len(sources) < total:
            picture = pool.pictures[next(order, int(rng.integers(len(pool.pictures))))]
            if min(picture.shape[:2]) >= 128 and rng.random() < recipe.edits.tiles:
                sources += augment.halves(picture, rng)
            else:
                sources.append(picture)
        del sources[int(total) :]
    return sources


def _names(listing: Path) -> set[str]:
    if not listing.is_file():
        raise ValueError(f"{listing}: no such list of held-out pictures; correct data.hold_out or data.root")
    with listing.open(newline="", encoding="utf-8") as file:
        return {PurePosixPath(cell).name for row in csv.reader(file, delimiter="\t") for cell in row if "." in cell}


def _read(path: Path) -> Pixels:
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError(f"{path}: cannot be decoded; remove it")
    height, width = pixels.shape[:2]
    scale = SHORT_SIDE / min(height, width)
    if scale < 1:
        size = (round(width * scale), round(height * scale))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(pixels[:, :, ::-1])
