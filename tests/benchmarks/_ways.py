"""Ways to take as many pictures from a pool: at random, as curation does, and as one would who knew the labels."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from curation.clusters import hierarchy, kmeans
from curation.neighbours.knn import nearest
from curation.selection.balance import budgets, first_of_each
from curation.selection.policy import Limits, select
from curation.selection.retrieval import cluster_based, sample_based
from tests.benchmarks._concept_pool import NUM_CLASSES

_SET = "queries"
_OVER_FETCH = 20  # candidates for each picture that a query may bring
_IMAGES_PER_CLUSTER = 25
_MIN_QUERIES = 4  # more than 3, as in the paper
_ROUNDS = 20


@dataclass(frozen=True)
class Material:
    """What a pool offers.

    Attributes:
        labels: [n] class of every file of the pool, ``OFF_TOPIC`` for other things; for the oracle alone.
        kept: [m] files that deduplication keeps, by image id.
        ids: [m] their image ids.
        vectors: [m, d] float32, their semantic descriptors.
        queries: [q, d] float32, those of the query pictures.
        seed: of whatever is drawn.
    """

    labels: np.ndarray
    kept: np.ndarray
    ids: np.ndarray
    vectors: np.ndarray
    queries: np.ndarray
    seed: int


def at_random(material: Material, size: int) -> np.ndarray:
    """Files of the whole pool, copies included."""
    return np.random.default_rng(material.seed).choice(len(material.labels), size, replace=False)


def deduplicated(material: Material, size: int) -> np.ndarray:
    """Files that deduplication keeps, at random."""
    return np.random.default_rng(material.seed).choice(material.kept, size, replace=False)


def by_queries(material: Material, size: int) -> np.ndarray:
    """The same number of neighbours for every query, each picture once (sample-based retrieval)."""
    return material.kept[_near(material, size)]


def by_clusters(material: Material, size: int) -> np.ndarray:
    """The same number of pictures from every cluster that holds enough queries (cluster-based retrieval)."""
    centroids = _clusters(material.vectors, material.seed)
    clusters, similarities = kmeans.assign(material.vectors, centroids)
    asked, _ = kmeans.assign(material.queries, centroids)
    log = cluster_based(_SET, asked, material.ids.tolist(), clusters, similarities, _MIN_QUERIES, material.seed)
    each = _least(lambda share: len(_taken(material, log, clusters, Limits(share))), size, len(material.kept))
    return material.kept[_taken(material, log, clusters, Limits(each, size))]


def balanced(material: Material, size: int) -> np.ndarray:
    """Balanced sampling from the tree of hierarchical k-means, which nobody tells what is asked for."""
    return material.kept[_balanced(material, np.arange(len(material.kept)), size)]


def both(material: Material, size: int) -> np.ndarray:
    """Balanced sampling among twice as many neighbours of the queries as are wanted."""
    return material.kept[_balanced(material, _near(material, 2 * size), size)]


def with_labels(material: Material, size: int) -> np.ndarray:
    """As many of every class as it has, up to what makes the sum: what could be had."""
    rng = np.random.default_rng(material.seed)
    labels = material.labels[material.kept]
    members = [rng.permutation(material.kept[labels == label]) for label in range(NUM_CLASSES)]
    each = _least(lambda share: sum(len(one[:share]) for one in members), size, size)
    return np.concatenate([one[:each] for one in members])[:size]


RANDOM, RETRIEVAL, HIERARCHICAL, BOTH = "random", "retrieval", "hierarchical", "retrieval, hierarchical"
WAYS: dict[str, Callable[[Material, int], np.ndarray]] = {
    RANDOM: at_random,
    "random, deduplicated": deduplicated,
    RETRIEVAL: by_queries,
    "retrieval by clusters": by_clusters,
    HIERARCHICAL: balanced,
    BOTH: both,
    "oracle with labels": with_labels,
}


def _near(material: Material, size: int) -> np.ndarray:
    """Rows of the kept pictures that the queries bring up, as many for each, each row once."""
    share = -(-size // len(material.queries))
    found = nearest(material.vectors, material.queries, min(share * _OVER_FETCH, len(material.kept)))
    log = sample_based(
        _SET,
        pa.array([f"{query:06d}" for query in found.query]),
        pa.array(material.ids[found.row]),
        pa.array(found.rank()),
        pa.array(found.similarity),
    )
    return _taken(material, log, np.zeros(len(material.kept), np.int32), Limits(share, size))


def _taken(material: Material, log: pa.Table, clusters: np.ndarray, limits: Limits) -> np.ndarray:
    """Rows of the kept pictures that selection takes from a log."""
    pool = pa.table({"image_id": pa.array(material.ids), "cluster": pa.array(clusters, pa.int32())})
    chosen = select(log, pool, {_SET: limits}, material.seed, "unique").selection
    return np.flatnonzero(np.isin(material.ids, np.asarray(chosen["image_id"])))


def _balanced(material: Material, rows: np.ndarray, size: int) -> np.ndarray:
    """Those of some rows that a balanced sample of them takes."""
    vectors = material.vectors[rows]
    bottom = _clusters(vectors, material.seed)
    levels = hierarchy.build(bottom, [len(bottom) // 4, len(bottom) // 16], _ROUNDS, 4, 3, material.seed)
    clusters, _ = kmeans.assign(vectors, bottom)
    each = budgets(np.bincount(clusters, minlength=len(bottom)), [one.parents for one in levels], size, material.seed)
    return np.sort(rows[first_of_each(material.ids[rows], clusters, each, material.seed)[0]])


def _clusters(vectors: np.ndarray, seed: int) -> np.ndarray:
    return kmeans.train(vectors, max(len(vectors) // _IMAGES_PER_CLUSTER, 16), _ROUNDS, seed)


def _least(count: Callable[[int], int], aim: int, most: int) -> int:
    """The smallest share with which ``count``, which grows, reaches the aim; ``most`` where none does."""
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if count(middle) >= aim else (middle + 1, high)
    return low
