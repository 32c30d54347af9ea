import hashlib

import numpy as np
import pytest

from curation.release.plan import fitting_shards, plan

IDS = [hashlib.sha256(str(n).encode()).hexdigest()[:32] for n in range(20_000)]
SIZES = np.random.default_rng(0).integers(1, 5000, len(IDS))


def by_shard(table):
    shards: dict[int, list[str]] = {}
    for row in table.to_pylist():
        assert row["position"] == len(shards.setdefault(row["shard"], []))
        shards[row["shard"]].append(row["image_id"])
    return shards


def test_the_order_of_the_input_does_not_matter():
    shuffled = np.random.default_rng(1).permutation(len(IDS))
    assert plan([IDS[i] for i in shuffled], 30, seed=3).equals(plan(IDS, 30, seed=3))


def test_every_image_once_in_shards_of_about_the_same_size():
    shards = by_shard(plan(IDS, 20, seed=3))
    assert sorted(i for ids in shards.values() for i in ids) == sorted(IDS)
    assert list(shards) == list(range(20))
    size = dict(zip(IDS, SIZES, strict=True))
    sizes = [sum(int(size[i]) for i in ids) for ids in shards.values()]
    assert np.ptp(sizes) < 0.2 * np.mean(sizes), "a thousand images a shard: a spread of 4 % one way"


def test_who_joins_or_leaves_moves_nobody_else():
    before, after = by_shard(plan(IDS[:1000], 30, seed=3)), by_shard(plan(IDS[:1001], 30, seed=3))
    (changed,) = [number for number, ids in after.items() if before[number] != ids]
    assert set(after[changed]) - set(before[changed]) == {IDS[1000]}
    assert [i for i in after[changed] if i != IDS[1000]] == before[changed]


def test_the_order_is_a_shuffle_that_the_seed_decides_and_not_the_number_of_shards():
    first, second = (plan(IDS[:2000], 3, seed)["image_id"].to_pylist() for seed in (0, 1))
    assert first != second
    assert plan(IDS[:2000], 17, 0)["image_id"].to_pylist() == first
    place = {i: n for n, i in enumerate(sorted(first))}
    for order in (first, second):
        assert abs(np.corrcoef([place[i] for i in order], range(len(order)))[0, 1]) < 0.1
    place = {i: n for n, i in enumerate(first)}
    assert abs(np.corrcoef([place[i] for i in second], range(len(second)))[0, 1]) < 0.1


def test_a_shard_without_images_leaves_its_number_unused():
    shards = by_shard(plan(IDS[:3], 1000, seed=0))
    assert len(shards) == 3
    assert max(shards) > 2


def test_nothing_gives_nothing():
    assert len(plan([], 1, seed=0)) == 0
    assert fitting_shards(np.array([], np.int64), 1000) == 1


@pytest.mark.parametrize(
    ("previous", "wished"), [(None, 10), (10, 10), (5, 5), (20, 20), (4, 10), (21, 10), (7, 7), (1, 10)]
)
def test_the_number_of_shards_stays_while_their_size_is_within_a_factor_of_two(previous, wished):
    sizes = np.full(100, 9 * 512)  # and a header
    assert fitting_shards(sizes, 100 * 512, previous) == wished


@pytest.mark.parametrize(
    ("ids", "shards", "word"),
    [
        ([IDS[0], IDS[0]], 10, "twice"),
        (["x" * 32, IDS[0]], 10, "xxxx"),
        ([IDS[0], "ab"], 10, "'ab'"),
        (IDS[:2], 0, "num_shards"),
    ],
)
def test_bad_input_is_named(ids, shards, word):
    with pytest.raises(ValueError, match=word):
        plan(ids, shards, seed=0)


def test_a_target_of_nothing_is_refused():
    with pytest.raises(ValueError, match="target_bytes"):
        fitting_shards(SIZES, 0)
