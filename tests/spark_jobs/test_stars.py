import numpy as np
import pytest

from curation.neighbours.components import connected_components
from spark_jobs import stars

pytestmark = pytest.mark.spark


def _graph():
    """A chain and a star with their ids in random order, a clique, a random graph, repeated edges and loops."""
    rng = np.random.default_rng(0)
    chain = np.stack([np.arange(99), np.arange(1, 100)], 1)
    star = np.stack([np.full(399, 100), np.arange(101, 500)], 1)
    clique = np.stack(np.triu_indices(12, 1), 1) + 500
    random = rng.integers(512, 1500, (600, 2))
    edges = rng.permutation(1600)[np.concatenate([chain, star, clique, random, random[:50, ::-1], [[1550, 1550]]])]
    return rng.permutation(edges)


def test_equal_union_find(spark, tmp_path):
    edges = _graph()
    ids = np.array([f"{i:08x}" for i in range(1600)])
    labels = connected_components(len(ids), edges)
    distinct = edges[edges[:, 0] != edges[:, 1]]
    expected = {(ids[node], ids[labels[node]]) for node in np.unique(distinct)}
    columns = "lower_id string, higher_id string"
    frame = spark.createDataFrame(list(zip(ids[edges[:, 0]].tolist(), ids[edges[:, 1]].tolist(), strict=True)), columns)
    rows = stars.components(frame.repartition(3), f"{tmp_path}/some").collect()
    assert len(rows) == len(expected)
    assert {(row["image_id"], row["component"]) for row in rows} == expected
    assert {path.name for path in (tmp_path / "some").iterdir()} == {"round-0", "round-1"}
    assert stars.components(spark.createDataFrame([], columns), f"{tmp_path}/none").collect() == []
