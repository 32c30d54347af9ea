import numpy as np
import pyarrow as pa
import pytest

from curation.schema import RETRIEVALS, SELECTION
from curation.selection.policy import select


def _log(*rows):
    names = RETRIEVALS.schema.names
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema=RETRIEVALS.schema)


def _pool(ids):
    return pa.table({"image_id": pa.array(list(ids), pa.string()), "cluster": pa.array(range(len(ids)), pa.int32())})


LOG = _log(
    ("pets", "q0", "a", 2, 0.7, "sample"),
    ("pets", "q1", "a", 1, 0.6, "sample"),
    ("birds", "q9", "a", 1, 0.8, "sample"),
    ("cars", None, "a", 1, 0.9, "cluster"),
    ("cars", None, "b", 2, 0.9, "cluster"),
    ("cars", None, "c", 3, 0.9, "cluster"),
    ("bikes", None, "c", 9, 0.1, "cluster"),
    ("own", None, "d", 1, None, "all"),
    ("pets", "q1", "d", 1, 0.9, "sample"),
)


def test_each_image_once_by_its_best_way():
    selected = select(LOG, _pool("edcba"), per_cluster=10, per_collection=10, seed=0)
    assert selected.selection.schema == SELECTION.schema
    assert [tuple(r.values()) for r in selected.selection.to_pylist()] == [
        ("a", "birds", "sample", 1, 4),
        ("b", "cars", "cluster", 2, 3),
        ("c", "cars", "cluster", 3, 2),
        ("d", "own", "all", 1, 1),
    ]
    assert selected.dropped.to_pylist() == [{"image_id": "e", "reason": "not_retrieved"}]
    assert selected.nominal == {"bikes": 1, "birds": 1, "cars": 3, "own": 1, "pets": 2}


def test_an_image_over_one_cap_is_taken_by_another_set():
    selected = select(LOG, _pool("abcde"), per_cluster=1, per_collection=10, seed=0)
    assert selected.selection["image_id"].to_pylist() == ["a", "d"]
    assert selected.dropped.to_pylist() == [
        {"image_id": "b", "reason": "over_cap"},
        {"image_id": "c", "reason": "over_cap"},
        {"image_id": "e", "reason": "not_retrieved"},
    ]


def _random(seed):
    rng = np.random.default_rng(seed)
    ids = [f"{i:04x}" for i in range(200)]
    rows = {}
    for name in ("cars", "bikes"):
        members = rng.permutation(ids)[:150]
        rows |= {(name, i): (name, None, i, int(r % 50) + 1, 0.5, "cluster") for r, i in enumerate(members)}
    for query in range(40):
        rows |= {(query, r): ("pets", f"q{query}", str(rng.choice(ids)), r, 0.9, "sample") for r in (1, 2)}
    return ids, [rows[key] for key in rows], rng


@pytest.mark.parametrize("seed", range(5))
def test_laws(seed):
    ids, rows, rng = _random(seed)
    selected = select(_log(*rows), _pool(ids), per_cluster=40, per_collection=60, seed=seed)
    kept, dropped = selected.selection["image_id"].to_pylist(), selected.dropped["image_id"].to_pylist()
    assert sorted(kept + dropped) == ids
    retrieved = {r[2] for r in rows}
    assert all((r["image_id"] in retrieved) == (r["reason"] == "over_cap") for r in selected.dropped.to_pylist())
    assert selected.nominal["cars"] == selected.nominal["bikes"] == 60
    assert {r[2] for r in rows if r[5] == "sample"} <= set(kept)

    shuffled = select(_log(*rng.permutation(np.array(rows, object)).tolist()), _pool(ids), 40, 60, seed)
    assert shuffled.selection.equals(selected.selection)
    assert shuffled.dropped.equals(selected.dropped)


@pytest.mark.parametrize("seed", range(5))
def test_a_cap_moves_by_at_most_one_image_for_each_that_is_added(seed):
    ids, rows, _ = _random(seed)
    cars = [r for r in rows if r[0] == "cars"]
    before = set(select(_log(*cars[1:]), _pool(ids), 50, 60, seed).selection["image_id"].to_pylist())
    after = set(select(_log(*cars), _pool(ids), 50, 60, seed).selection["image_id"].to_pylist())
    assert len(after - before) == len(before - after) <= 1


def test_empty_log_and_empty_pool():
    assert select(_log(), _pool("ab"), 1, 1, 0).dropped["reason"].to_pylist() == ["not_retrieved"] * 2
    assert len(select(_log(), _pool(""), 1, 1, 0).selection) == 0


def test_bad_input():
    with pytest.raises(ValueError, match="candidate a is not in the pool"):
        select(LOG, _pool("bcd"), 1, 1, 0)
    with pytest.raises(ValueError, match="listed twice"):
        select(LOG, _pool("aabcd"), 1, 1, 0)
    with pytest.raises(ValueError, match="source"):
        select(_log(("x", None, "a", 1, 0.1, "luck")), _pool("a"), 1, 1, 0)
