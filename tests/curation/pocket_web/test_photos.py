from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from curation.pocket_web import photos


@pytest.fixture(scope="module")
def cut() -> tuple[list[photos.Tile], list[photos.Chain]]:
    return photos.tiles_and_chains(0, ("china", "coffee"))


def test_there_are_enough_tiles_of_enough_classes(cut):
    tiles, _ = cut
    counts = Counter(tile.label for tile in tiles)
    assert len(tiles) >= 400
    assert len(counts) >= 12
    assert min(counts.values()) >= 14
    assert {tile.pixels.shape for tile in tiles} == {(photos.TILE_SIDE, photos.TILE_SIDE, 3)}
    assert len({tile.name for tile in tiles}) == len(tiles)


def test_no_content_is_in_two_tiles(cut):
    tiles, chains = cut
    claimed = {photograph.label: np.zeros(photos.load(photograph).shape[:2], int) for photograph in photos.PHOTOGRAPHS}
    chain_strips = [
        (chain.tiles[0].label, (*chain.tiles[0].box[:2], *chain.tiles[-1].box[2:])) for chain in chains
    ]  # fmt: skip
    boxes = [(tile.label, tile.box) for tile in tiles] + chain_strips + [("astronaut", photos.FACE_BOX)]
    for label, (left, upper, right, lower) in boxes:
        claimed[label][upper:lower, left:right] += 1
    assert {label: int(count.max()) for label, count in claimed.items()} == dict.fromkeys(claimed, 1)


def test_no_tile_is_blank_and_no_two_are_near_duplicates(cut):
    tiles, _ = cut
    small = np.stack(
        [np.asarray(Image.fromarray(t.pixels).resize((24, 24), Image.Resampling.BOX), float) for t in tiles]
    )
    assert small.std(axis=(1, 2)).max(axis=1).min() > 2.0
    flat = small.reshape(len(small), -1)
    centred = flat - flat.mean(axis=1, keepdims=True)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    similarity = unit @ unit.T
    relative_difference = min(
        np.abs(flat[i] - flat[j]).mean() for i, j in zip(*np.where(np.triu(similarity, 1) > 0.9), strict=True)
    )
    assert relative_difference > 3.0  # grey levels; a re-encoded copy differs by less than one


def test_links_of_a_chain_overlap_and_its_ends_do_not(cut):
    _, chains = cut
    assert [chain.name for chain in chains] == ["china-chain", "coffee-chain"]
    for chain in chains:
        width = chain.tiles[0].box[2] - chain.tiles[0].box[0]
        for a, b in combinations(range(5), 2):
            shared = chain.tiles[a].box[2] - chain.tiles[b].box[0]
            assert shared == pytest.approx(width * (1 - (b - a) / 4), abs=1)


def test_the_split_deals_every_tile_once_and_every_class_alike(cut):
    tiles, _ = cut
    dealt = photos.split(tiles, {"test": 3, "queries": 2}, seed=5, concepts_only=("queries",))
    assert sorted(tile.name for hand in dealt.values() for tile in hand) == sorted(tile.name for tile in tiles)
    concepts = {photograph.label for photograph in photos.PHOTOGRAPHS if photograph.concept}
    assert Counter(tile.label for tile in dealt["test"]) == {p.label: 3 for p in photos.PHOTOGRAPHS}
    assert Counter(tile.label for tile in dealt["queries"]) == dict.fromkeys(concepts, 2)
    again = photos.split(tiles[::-1], {"test": 3, "queries": 2}, seed=5, concepts_only=("queries",))
    other = photos.split(tiles, {"test": 3, "queries": 2}, seed=6, concepts_only=("queries",))
    names = [{tile.name for tile in deal["test"]} for deal in (dealt, again, other)]
    assert names[0] == names[1] != names[2]


def test_a_missing_photograph_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.png.*does not carry"):
        photos.load(photos.Photograph("x", "skimage", "data/nowhere.png", 10))
