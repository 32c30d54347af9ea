"""What the query sets bring up from the pool: a log of candidates, before any cap (paper, section 3).

Selection is a separate function over this log (``curation.selection.policy``), so caps and policies can change
without a new search.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from curation.schema import RETRIEVALS
from curation.selection.hash_order import hash_order


def sample_based(
    collection: str, query_ids: pa.Array, image_ids: pa.Array, ranks: pa.Array, similarities: pa.Array
) -> pa.Table:
    """The nearest pool images of every query (the paper's way for query sets of more than 1 M images).

    Args:
        collection: name of the query set.
        query_ids: [m] the query of each row, strings.
        image_ids: [m] the pool image that it brings up.
        ranks: [m] integers; 1 is the query's nearest.
        similarities: [m] float32.

    Returns:
        m rows as in ``curation.schema.RETRIEVALS``, in the order given.
    """
    return pa.table(
        {
            "collection": pa.array([collection] * len(query_ids), pa.string()),
            "query_id": query_ids,
            "image_id": image_ids,
            "rank": ranks,
            "similarity": similarities,
            "source": pa.array(["sample"] * len(query_ids), pa.string()),
        }
    ).cast(RETRIEVALS.schema)


def cluster_based(
    collection: str,
    query_clusters: np.ndarray,
    image_ids: Sequence[str],
    image_clusters: np.ndarray,
    similarities: np.ndarray,
    min_queries: int,
    seed: int,
) -> pa.Table:
    """All pool images in the clusters that hold enough queries (the paper's way for smaller query sets).

    Args:
        collection: name of the query set.
        query_clusters: [q] cluster of every query.
        image_ids: [n] ids of the pool.
        image_clusters: [n] cluster of every pool image.
        similarities: [n] float32, of every pool image to its centroid.
        min_queries: a cluster gives its images if it holds at least this many queries (paper: more than 3, so 4).
        seed: of the hash order, which is each set's own.

    Returns:
        Rows as in ``curation.schema.RETRIEVALS``, by cluster and rank, without query id; rank counts from 1 in
        the hash order of the cluster, so that a take of n per cluster is ``rank <= n``.
    """
    image_clusters = np.asarray(image_clusters)
    member = np.flatnonzero(np.isin(image_clusters, drawn_from(query_clusters, min_queries)))
    ids = np.asarray(image_ids, object)[member]
    cluster = image_clusters[member]
    order = np.lexsort((ids.astype(str), hash_order(ids, seed, collection), cluster))
    member, ids, cluster = member[order], ids[order], cluster[order]
    starts = np.searchsorted(cluster, cluster)  # the first row of the same cluster
    rank = np.arange(len(cluster)) - starts + 1
    return _log(collection, np.full(len(ids), None), ids, rank, np.asarray(similarities)[member], "cluster")


def drawn_from(query_clusters: np.ndarray, min_queries: int) -> np.ndarray:
    """The clusters that hold enough of the queries, ascending."""
    clusters, num_queries = np.unique(query_clusters, return_counts=True)
    return clusters[num_queries >= min_queries]


def everything(collection: str, image_ids: Sequence[str], source: str = "all") -> pa.Table:
    """All images as candidates of the first rank: of the pool, or of a set that is taken ``as_is``."""
    none = np.full(len(image_ids), None)
    return _log(collection, none, np.asarray(image_ids, object), np.ones(len(image_ids)), none, source)


def _log(
    collection: str, query_ids: np.ndarray, image_ids: np.ndarray, rank: np.ndarray, similarity: np.ndarray, source: str
) -> pa.Table:
    return pa.Table.from_arrays(
        [
            pa.array([collection] * len(image_ids), pa.string()),
            pa.array(query_ids, pa.string()),
            pa.array(image_ids, pa.string()),
            pa.array(rank.astype(np.int32)),
            pa.array(similarity, pa.float32()),
            pa.array([source] * len(image_ids), pa.string()),
        ],
        schema=RETRIEVALS.schema,
    )
