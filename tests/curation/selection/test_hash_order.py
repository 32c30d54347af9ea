import numpy as np
import pyarrow as pa
import pytest

from curation.selection import hash_order as module
from curation.selection.hash_order import hash_order, ranked

IDS = [f"{i:032x}" for i in range(100)]
AS = {
    "list": list,
    "numpy": np.array,
    "arrow": pa.array,
    "large": lambda ids: pa.array(ids, pa.large_string()),
    "chunks": lambda ids: pa.chunked_array([ids[:7], [], ids[7:]], pa.string()),
}


@pytest.mark.parametrize("form", AS)
@pytest.mark.parametrize("step", [1, 7, 100, 1 << 16])
def test_keys_are_of_the_id_whatever_holds_it(form, step, monkeypatch):
    expected = hash_order(IDS, 3, "cars")
    monkeypatch.setattr(module, "_STEP", step)
    assert hash_order(AS[form](IDS), 3, "cars").tolist() == expected.tolist()
    assert len(hash_order(AS[form](IDS)[:0], 3, "cars")) == 0


def test_the_order_is_part_of_released_selections():
    assert hash_order(["a", "b"], 0, "cars").tolist() == [11062927166123730186, 10528010471998389554]


@pytest.mark.parametrize("form", AS)
def test_ranks_count_within_a_cluster(form):
    clusters = np.random.default_rng(0).integers(0, 7, len(IDS))
    order, rank = ranked(AS[form](IDS), clusters, 1, "cars")
    keys = hash_order(IDS, 1, "cars")
    expected = sorted(range(len(IDS)), key=lambda row: (clusters[row], keys[row]))
    assert order.tolist() == expected
    for cluster in range(7):
        assert rank[clusters[order] == cluster].tolist() == list(range(1, (clusters == cluster).sum() + 1))
    assert [len(part) for part in ranked([], np.zeros(0, np.int32), 1, "cars")] == [0, 0]


def test_two_of_one_hash_come_by_their_ids(monkeypatch):
    monkeypatch.setattr(module, "hash_order", lambda ids, *_: np.arange(len(ids), dtype=np.uint64) % 2)
    order, rank = ranked(["d", "c", "b", "a"], np.array([1, 1, 1, 0]), 0, "cars")
    assert [["d", "c", "b", "a"][row] for row in order] == ["a", "b", "d", "c"]
    assert rank.tolist() == [1, 1, 2, 3]
