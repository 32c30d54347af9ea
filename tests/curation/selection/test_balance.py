import numpy as np
import pyarrow as pa
import pytest

from curation import schema
from curation.selection.balance import allocate, balanced_sample, budgets


def water_level(sizes, target, priority):
    """One image at a time to whoever has got least and has some left."""
    taken = np.zeros(len(sizes), int)
    for _ in range(min(target, sum(sizes))):
        able = [i for i in range(len(sizes)) if taken[i] < sizes[i]]
        taken[min(able, key=lambda i: (taken[i], priority[i]))] += 1
    return taken


@pytest.mark.parametrize("seed", range(30))
def test_the_budget_is_solved_exactly(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, rng.choice([2, 30]), rng.integers(1, 12))
    priority = rng.permutation(len(sizes))
    for target in (0, 1, int(sizes.sum()) // 3, int(sizes.sum()), int(sizes.sum()) + 5):
        assert allocate(sizes, target, priority).tolist() == water_level(sizes.tolist(), target, priority).tolist()


def tree(parents, num_bottom):
    levels = [*parents, [None] * (max(parents[-1]) + 1 if parents else num_bottom)]
    rows = [
        {"level": level, "cluster": i, "parent": above, "vector": b""}
        for level, mine in enumerate(levels)
        for i, above in enumerate(mine)
    ]
    return pa.Table.from_pylist(rows, schema.CENTROIDS.schema)


def pool(clusters, start=0):
    ids = [f"{(start + i) * 7919:032x}" for i in range(len(clusters))]
    return pa.table(
        {
            "image_id": ids,
            "cluster": pa.array(clusters, pa.int32()),
            "similarity": pa.array(np.full(len(ids), 0.5), pa.float32()),
        }
    )


def test_concepts_share_before_clusters_do():
    parents = [np.array([0, 0, 0, 1])]
    assert budgets(np.array([100, 100, 100, 100]), parents, 120, 0).tolist() == [20, 20, 20, 60]
    assert budgets(np.array([100, 100, 100, 10]), parents, 100, 0).tolist() == [30, 30, 30, 10]
    assert budgets(np.array([3, 0, 50, 2]), parents, 1000, 0).tolist() == [3, 0, 50, 2]
    one_more = {tuple(budgets(np.array([9, 9, 9, 9]), parents, 8, seed).tolist()) for seed in range(20)}
    assert one_more == {(1, 1, 2, 4), (1, 2, 1, 4), (2, 1, 1, 4)}


def test_a_sample_is_met_exactly_without_replacement_and_for_any_order():
    rng = np.random.default_rng(0)
    clusters = np.minimum(rng.geometric(0.3, 2000) - 1, 9)
    parents = [np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4]), np.array([0, 0, 0, 1, 1])]
    images = pool(clusters)
    log = balanced_sample(tree(parents, 10), images, 301, 0)
    assert log.schema == schema.RETRIEVALS.schema
    assert len(log) == len(set(log["image_id"].to_pylist())) == 301
    shuffled = images.take(rng.permutation(len(images)))
    assert balanced_sample(tree(parents, 10), shuffled, 301, 0).equals(log)
    assert not balanced_sample(tree(parents, 10), images, 301, 1).equals(log)
    assert len(balanced_sample(tree(parents, 10), images, 10**6, 0)) == 2000
    assert len(balanced_sample(tree([], 10), images, 50, 0)) == 50
    assert len(balanced_sample(tree(parents, 10), images.slice(0, 0), 50, 0)) == 0


def test_an_image_that_is_added_displaces_at_most_one():
    parents, clusters = [np.array([0, 0, 1, 1])], np.repeat(range(4), 50)
    before = set(balanced_sample(tree(parents, 4), pool(clusters), 60, 0)["image_id"].to_pylist())
    for new in range(20):
        more = pa.concat_tables([pool(clusters), pool([new % 4], start=1000 + new)])
        after = set(balanced_sample(tree(parents, 4), more, 60, 0)["image_id"].to_pylist())
        assert len(before - after) <= 1
