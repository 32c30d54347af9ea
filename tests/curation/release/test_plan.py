import hashlib

import numpy as np
import pytest

from curation.release.plan import plan

IDS = [hashlib.sha256(str(n).encode()).hexdigest()[:32] for n in range(2000)]
SIZES = np.random.default_rng(0).integers(1, 5000, len(IDS))


def test_the_order_of_the_input_does_not_matter():
    shuffled = np.random.default_rng(1).permutation(len(IDS))
    other = plan([IDS[i] for i in shuffled], SIZES[shuffled], 300_000, seed=3)
    assert other.equals(plan(IDS, SIZES, 300_000, seed=3))


def test_every_image_once_in_shards_of_about_the_target():
    table = plan(IDS, SIZES, 300_000, seed=3)
    assert sorted(table["image_id"].to_pylist()) == sorted(IDS)
    size = dict(zip(IDS, SIZES, strict=True))
    shards: dict[int, list[str]] = {}
    for row in table.to_pylist():
        assert row["position"] == len(shards.setdefault(row["shard"], []))
        shards[row["shard"]].append(row["image_id"])
    assert list(shards) == list(range(len(shards)))
    assert len(shards) > 10
    for ids in shards.values():
        assert 0.9 * 300_000 < sum(int(size[i]) + 512 for i in ids) < 1.15 * 300_000


def test_the_order_is_a_shuffle_that_the_seed_decides():
    first, second = (plan(IDS, SIZES, 10**9, seed)["image_id"].to_pylist() for seed in (0, 1))
    assert first != second
    place = {i: n for n, i in enumerate(sorted(IDS))}
    for order in (first, second):
        assert abs(np.corrcoef([place[i] for i in order], range(len(order)))[0, 1]) < 0.1
    place = {i: n for n, i in enumerate(first)}
    assert abs(np.corrcoef([place[i] for i in second], range(len(second)))[0, 1]) < 0.1


def test_an_image_larger_than_a_shard_leaves_no_gap():
    table = plan(IDS[:3], np.array([10, 10**7, 10]), 1000, seed=0)
    assert sorted(set(table["shard"].to_pylist())) == list(range(len(set(table["shard"].to_pylist()))))


def test_nothing_gives_nothing():
    assert len(plan([], np.array([], np.int64), 1000, seed=0)) == 0


@pytest.mark.parametrize(
    ("ids", "target", "word"),
    [
        ([IDS[0], IDS[0]], 10, "twice"),
        (["x" * 32, IDS[0]], 10, "xxxx"),
        ([IDS[0], "ab"], 10, "'ab'"),
        (IDS[:2], 0, "shard_target_bytes"),
        (IDS[:1], 9, "2 sizes"),
    ],
)
def test_bad_input_is_named(ids, target, word):
    with pytest.raises(ValueError, match=word):
        plan(ids, np.array([1, 2]), target, seed=0)
