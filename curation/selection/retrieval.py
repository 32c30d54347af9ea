"""What the query sets bring up from the pool: a log of candidates, before any cap (paper, section 3).

Selection is a separate function over this log (``curation.selection.policy``), so caps and policies can change
without a new search.
"""

import numpy as np
import pyarrow as pa

from curation.schema import RETRIEVALS
from curation.selection.hash_order import Ids, as_arrow, ranked
from curation.wide import narrow


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
    image_ids: Ids,
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
    member = np.isin(image_clusters, drawn_from(query_clusters, min_queries))
    ids = as_arrow(image_ids).filter(pa.array(member)).cast(pa.large_string())
    order, rank = ranked(ids, image_clusters[member], seed, collection)
    similarity = pa.array(np.asarray(similarities)[member][order], pa.float32())
    return candidates(collection, ids.take(pa.array(order)), rank, similarity, "cluster")


def drawn_from(query_clusters: np.ndarray, min_queries: int) -> np.ndarray:
    """The clusters that hold enough of the queries, ascending."""
    clusters, num_queries = np.unique(query_clusters, return_counts=True)
    return clusters[num_queries >= min_queries]


def everything(collection: str, image_ids: Ids, source: str = "all") -> pa.Table:
    """All images as candidates of the first rank: of the pool, or of a set that is taken ``as_is``."""
    ids = as_arrow(image_ids)
    return candidates(collection, ids, np.ones(len(ids)), pa.nulls(len(ids), pa.float32()), source)


def candidates(collection: str, ids: pa.Array, rank: np.ndarray, similarity: pa.Array, source: str) -> pa.Table:
    """Rows as in ``curation.schema.RETRIEVALS`` of images that no single query brings: [n] ids, ranks, similarities."""
    num, text = len(ids), pa.large_string()
    columns = {
        "collection": pa.repeat(pa.scalar(collection, text), num),
        "query_id": pa.nulls(num, text),
        "image_id": ids,
        "rank": pa.array(rank.astype(np.int32)),
        "similarity": similarity,
        "source": pa.repeat(pa.scalar(source, text), num),
    }
    return narrow(pa.table(columns), RETRIEVALS.schema)
