"""How evenly images lie over concepts, the clusters of the pool: before and after the selection."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def sizes(clusters: np.ndarray, num_clusters: int) -> np.ndarray:
    """[num_clusters] int64: images of each cluster.

    Args:
        clusters: [n] integers from 0, a cluster an image.
        num_clusters: of all, those without an image too.
    """
    return np.bincount(clusters, minlength=num_clusters)


def effective_number(counts: np.ndarray) -> float:
    """How many clusters of one size would be as even: the exponential of the entropy in nats; 0 without an image."""
    shares = np.sort(counts[counts > 0]) / max(counts.sum(), 1)
    return float(np.exp(-np.sum(shares * np.log(shares)))) if len(shares) else 0.0


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of the sizes, empty clusters included: 0, all are equal; near 1, one holds everything."""
    if not counts.sum():
        return 0.0
    ordered = np.sort(counts)
    place = np.arange(1, len(ordered) + 1)
    return float(2 * np.sum(place * ordered) / (len(ordered) * ordered.sum()) - (len(ordered) + 1) / len(ordered))


def balance(counts: np.ndarray) -> dict[str, Any]:
    """Both measures, the images and the clusters that hold any, as a run's record keeps them."""
    return {
        "images": int(counts.sum()),
        "clusters": int(np.count_nonzero(counts)),
        "effective_number": round(effective_number(counts), 6),
        "gini": round(gini(counts), 6),
    }


def nearest_clusters(query_clusters: np.ndarray, shown: int = 3) -> list[list[int]]:
    """The clusters that hold most of a query set: (cluster, queries), most first, ties by the lower cluster."""
    clusters, counts = np.unique(query_clusters, return_counts=True)
    order = np.lexsort((clusters, -counts))[:shown]
    return [[int(clusters[i]), int(counts[i])] for i in order]


def sentence(measured: Mapping[str, Mapping[str, Any]]) -> str:
    """What a reader of the terminal should know: ``measured`` has the :func:`balance` of "pool" and "selection"."""
    before, after = measured["pool"], measured["selection"]
    return (
        f"concepts: {before['images']:,} images in {before['clusters']:,} clusters, as even as "
        f"{before['effective_number']:,.1f} of one size (Gini {before['gini']:.2f}); selected {after['images']:,} in "
        f"{after['clusters']:,}, as even as {after['effective_number']:,.1f} (Gini {after['gini']:.2f})"
    )
