from collections import Counter

import numpy as np
import pyarrow as pa

from curation.schema import RETRIEVALS
from curation.selection.retrieval import cluster_based, drawn_from, everything, sample_based


def test_sample_based():
    queries, images = pa.array(["q0", "q0", "q1", "q1"]), pa.array(["c", "a", "a", "b"])
    log = sample_based("pets", queries, images, pa.array([1, 2, 1, 2]), pa.array([0.9, 0.8] * 2, pa.float32()))
    assert log.schema == RETRIEVALS.schema
    rows = [(r["query_id"], r["rank"], r["image_id"], round(r["similarity"], 4)) for r in log.to_pylist()]
    assert rows == [("q0", 1, "c", 0.9), ("q0", 2, "a", 0.8), ("q1", 1, "a", 0.9), ("q1", 2, "b", 0.8)]


def _pool(n=500, k=10, seed=0):
    rng = np.random.default_rng(seed)
    return np.array([f"{i:032x}" for i in range(n)]), rng.integers(0, k, n), rng.random(n).astype(np.float32)


def test_cluster_based_takes_the_clusters_with_enough_queries():
    ids, clusters, similarities = _pool()
    log = cluster_based("cars", np.array([3] * 4 + [5] * 3 + [99] * 9), ids, clusters, similarities, 4, 0)
    assert log.schema == RETRIEVALS.schema
    assert sorted(log["image_id"].to_pylist()) == ids[clusters == 3].tolist()
    assert log["rank"].to_pylist() == list(range(1, (clusters == 3).sum() + 1))
    similarity_of = dict(zip(ids, similarities, strict=True))
    assert all(r["similarity"] == similarity_of[r["image_id"]] for r in log.to_pylist())


def test_a_take_per_cluster_moves_by_at_most_one_image_when_one_is_added():
    ids, clusters, similarities = _pool()
    queries = np.repeat(np.arange(10), 4)

    def take(keep):
        log = cluster_based("cars", queries, ids[keep], clusters[keep], similarities[keep], 4, 7)
        return {r["image_id"] for r in log.to_pylist() if r["rank"] <= 20}

    whole = np.ones(500, bool)
    for row in range(0, 500, 25):
        fewer = whole.copy()
        fewer[row] = False
        assert len(take(whole) - take(fewer)) == len(take(fewer) - take(whole)) <= 1


def test_cluster_order_depends_on_the_seed_and_not_on_the_order_of_rows():
    ids, clusters, similarities = _pool()
    queries, order = np.repeat(np.arange(10), 4), np.random.default_rng(1).permutation(500)
    log = cluster_based("cars", queries, ids, clusters, similarities, 4, 0)
    assert log.equals(cluster_based("cars", queries, ids[order], clusters[order], similarities[order], 4, 0))
    other = cluster_based("cars", queries, ids, clusters, similarities, 4, 1)
    assert log["image_id"] != other["image_id"]
    per_cluster = Counter(clusters.tolist())
    assert Counter(log["rank"].to_pylist()) == Counter(r for n in per_cluster.values() for r in range(1, n + 1))


def test_no_cluster_has_enough_queries():
    ids, clusters, similarities = _pool()
    assert len(cluster_based("cars", np.arange(10), ids, clusters, similarities, 2, 0)) == 0


def test_everything():
    assert everything("own", ["b", "a"])["image_id"].to_pylist() == ["b", "a"]
    assert len(everything("own", [])) == 0


def test_two_sets_draw_other_images_from_one_cluster():
    ids, clusters, similarities = _pool()
    logs = [cluster_based(name, np.array([3] * 4), ids, clusters, similarities, 4, 0) for name in ("cars", "bikes")]
    first = [log["image_id"].to_pylist()[:10] for log in logs]
    assert len(set(first[0]) & set(first[1])) < 8
    assert set(logs[0]["image_id"].to_pylist()) == set(logs[1]["image_id"].to_pylist())


def test_clusters_drawn_from_hold_enough_queries():
    assert drawn_from(np.array([7, 1, 7, 1, 7, 2]), 2).tolist() == [1, 7]
