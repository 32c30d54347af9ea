"""Distinct tiles cut from the photographs that scikit-image and scikit-learn carry inside their wheels."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]  # left, upper, right, lower, in pixels of the photograph

TILE_SIDE = 128
FACE_BOX: Box = (128, 0, 320, 192)  # the astronaut's head, on the grid of her photograph
ALIKE = 0.9  # cosine of two tiles' thumbnails above which the later one is left out


@dataclass(frozen=True)
class Photograph:
    """One carried picture: its class, its file, and the grid it is cut on.

    ``cell`` is the side of a tile in the photograph; tiles with less :func:`detail` than ``flat`` are sky or wall
    and left out; ``keep_at_most`` holds the large pictures to the number of the others.
    """

    label: str
    package: str
    file: str
    cell: int
    concept: bool = False  # whether the query sets ask for it
    flat: float = 2.0
    keep_at_most: int = 32


PHOTOGRAPHS = (
    Photograph("astronaut", "skimage", "data/astronaut.png", 64, concept=True, flat=3.5, keep_at_most=48),
    Photograph("brick", "skimage", "data/brick.png", 102),
    Photograph("camera", "skimage", "data/camera.png", 85),
    Photograph("chelsea", "skimage", "data/chelsea.png", 56, concept=True, flat=3.5, keep_at_most=48),
    Photograph("china", "sklearn", "datasets/images/china.jpg", 64, concept=True, flat=3.5, keep_at_most=48),
    Photograph("coffee", "skimage", "data/coffee.png", 64, concept=True, flat=3.5, keep_at_most=48),
    Photograph("coins", "skimage", "data/coins.png", 63),
    Photograph("flower", "sklearn", "datasets/images/flower.jpg", 53, concept=True, flat=3.5, keep_at_most=48),
    Photograph("grass", "skimage", "data/grass.png", 85),
    Photograph("gravel", "skimage", "data/gravel.png", 85),
    Photograph("hubble", "skimage", "data/hubble_deep_field.jpg", 124),
    Photograph("ihc", "skimage", "data/ihc.png", 85),
    Photograph("moon", "skimage", "data/moon.png", 85),
    Photograph("motorcycle", "skimage", "data/motorcycle_left.png", 74, concept=True, flat=3.5, keep_at_most=48),
    Photograph("retina", "skimage", "data/retina.jpg", 140),
    Photograph("rocket", "skimage", "data/rocket.jpg", 85),
)


@dataclass(frozen=True)
class Tile:
    """A square of one photograph, ``TILE_SIDE`` pixels a side unless said otherwise.

    ``pixels`` is uint8 of shape (side, side, 3).
    """

    label: str
    name: str
    box: Box
    pixels: Pixels


@dataclass(frozen=True)
class Chain:
    """Tiles that slide over a photograph: neighbours share most of their content, the two ends share none."""

    name: str
    tiles: tuple[Tile, ...]


def load(photograph: Photograph) -> Pixels:
    """The photograph as uint8 RGB of shape (height, width, 3).

    Raises:
        ValueError: the installed package does not carry the file.
    """
    spec = find_spec(photograph.package)
    assert spec is not None, f"{photograph.package} is a dependency"
    path = Path(str(spec.origin)).parent / photograph.file
    if not path.is_file():
        raise ValueError(f"{path}: {photograph.package} does not carry this picture; install the pinned version")
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def detail(pixels: Pixels) -> float:
    """Mean absolute difference of neighbouring pixels after a light blur: near 0 for a flat tile."""
    grey = Image.fromarray(pixels).convert("L").resize((32, 32), Image.Resampling.BOX)
    values = np.asarray(grey, dtype=np.float64)
    return float((np.abs(np.diff(values, axis=0)).mean() + np.abs(np.diff(values, axis=1)).mean()) / 2)


def cut(photograph: Photograph, pixels: Pixels, box: Box, name: str, side: int = TILE_SIDE) -> Tile:
    """The part of a photograph within ``box``, scaled to ``side``."""
    image = Image.fromarray(pixels).crop(box).resize((side, side), Image.Resampling.LANCZOS)
    return Tile(photograph.label, name, box, np.asarray(image))


def face() -> Tile:
    """The astronaut's face, at the resolution of her photograph; no other tile overlaps it."""
    photograph = PHOTOGRAPHS[0]
    return cut(photograph, load(photograph), FACE_BOX, "astronaut-face", FACE_BOX[2] - FACE_BOX[0])


def tiles_and_chains(seed: int, chain_labels: Sequence[str]) -> tuple[list[Tile], list[Chain]]:
    """Every distinct tile, and one chain of each photograph in ``chain_labels``.

    No two tiles overlap, none overlaps a chain or the face, and no two look alike at thumbnail size.
    """
    tiles: list[Tile] = []
    chains: list[Chain] = []
    for photograph in PHOTOGRAPHS:
        pixels = load(photograph)
        grid = sorted(_grid(photograph, pixels), key=lambda tile: _draw(seed, tile.name))
        if photograph.label in chain_labels:
            pair = _neighbours(grid)
            chains.append(_chain(photograph, pixels, pair[0]))
            grid = [tile for tile in grid if tile not in pair]
        tiles += grid[: photograph.keep_at_most]
    return _unlike(tiles), chains


def split(
    tiles: Sequence[Tile], shares: dict[str, int], seed: int, concepts_only: Sequence[str]
) -> dict[str, list[Tile]]:
    """Deal tiles into named splits, the same number of every class, and the rest into ``web``.

    Args:
        tiles: from :func:`tiles_and_chains`.
        shares: tiles a class for each split.
        seed: another seed deals otherwise.
        concepts_only: the splits that only get tiles of the concept classes.
    """
    concepts = {photograph.label for photograph in PHOTOGRAPHS if photograph.concept}
    dealt: dict[str, list[Tile]] = {name: [] for name in (*shares, "web")}
    for label in dict.fromkeys(tile.label for tile in tiles):
        hand = sorted((tile for tile in tiles if tile.label == label), key=lambda tile: _draw(seed + 1, tile.name))
        for name, share in shares.items():
            if name not in concepts_only or label in concepts:
                dealt[name] += hand[:share]
                hand = hand[share:]
        dealt["web"] += hand
    return dealt


def _grid(photograph: Photograph, pixels: Pixels) -> Iterator[Tile]:
    height, width = pixels.shape[:2]
    cell = photograph.cell
    for row in range(height // cell):
        for column in range(width // cell):
            box = (column * cell, row * cell, (column + 1) * cell, (row + 1) * cell)
            tile = cut(photograph, pixels, box, f"{photograph.label}-{row:02}-{column:02}")
            shows_face = photograph.label == "astronaut" and _overlap(box, FACE_BOX)
            if not shows_face and detail(tile.pixels) >= photograph.flat:
                yield tile


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _neighbours(tiles: Sequence[Tile]) -> tuple[Tile, Tile]:
    """The pair, left and right, whose plainer half has most detail."""
    by_corner = {tile.box[:2]: tile for tile in tiles}
    pairs = [(tile, by_corner[corner]) for tile in tiles if (corner := (tile.box[2], tile.box[1])) in by_corner]
    return max(pairs, key=lambda pair: min(detail(tile.pixels) for tile in pair))


def _chain(photograph: Photograph, pixels: Pixels, first: Tile) -> Chain:
    left, upper, right, lower = first.box
    links = []
    for step in range(5):
        shift = step * photograph.cell // 4
        box = (left + shift, upper, right + shift, lower)
        links.append(cut(photograph, pixels, box, f"{photograph.label}-chain-{step}"))
    return Chain(f"{photograph.label}-chain", tuple(links))


def _unlike(tiles: Sequence[Tile]) -> list[Tile]:
    kept: list[Tile] = []
    thumbnails: list[npt.NDArray[np.float64]] = []
    for tile in tiles:
        thumbnail = _thumbnail(tile.pixels)
        if not thumbnails or float((np.stack(thumbnails) @ thumbnail).max()) < ALIKE:
            kept.append(tile)
            thumbnails.append(thumbnail)
    return kept


def _thumbnail(pixels: Pixels) -> npt.NDArray[np.float64]:
    grey = Image.fromarray(pixels).convert("L").resize((16, 16), Image.Resampling.BOX)
    values = np.asarray(grey, dtype=np.float64).ravel()
    values = values - values.mean()
    return values / np.linalg.norm(values)


def _draw(seed: int, name: str) -> bytes:
    """A fixed shuffle: sort by this key."""
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()
