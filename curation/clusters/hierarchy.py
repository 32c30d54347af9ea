"""Clusters of clusters (Vo et al. 2024, Automatic Data Curation for Self-Supervised Learning, section 3).

Plain k-means puts most centroids where most images are. Centroids clustered again, level by level, spread over the
concepts instead, and resampling carries that on: clusters that hold few of the level below weigh as much as those that
hold many, since each gives the same number of members to the next round. Cells that hold little are rare concepts here,
so they are not moved to where inertia would gain more.
"""

from dataclasses import dataclass

import numpy as np

from curation.clusters import kmeans


@dataclass(frozen=True)
class Level:
    """One level of a tree above the bottom.

    Attributes:
        centroids: [k, d] float32 of unit length.
        parents: [k of the level below] int32: to which of these each cluster below belongs.
    """

    centroids: np.ndarray
    parents: np.ndarray


def build(
    bottom: np.ndarray, levels: list[int], num_iterations: int, num_resampled: int, num_rounds: int, seed: int
) -> list[Level]:
    """Cluster the centroids of the bottom level, and those of each level again.

    Args:
        bottom: [k, d] float32 centroids of unit length.
        levels: number of clusters of every level above, falling; a level takes no more than there are below.
        num_iterations: Lloyd rounds of each k-means.
        num_resampled: members nearest to its centroid that a cluster gives to a resampling round.
        num_rounds: of resampling a level; 0: none.
        seed: of every start.

    Returns:
        the levels, from the lowest.
    """
    tree: list[Level] = []
    below = bottom
    for k in levels:
        k = min(k, len(below))
        centroids = kmeans.train(below, k, num_iterations, seed, moves_weak=False)
        for _ in range(num_rounds):
            chosen = closest(*kmeans.assign(below, centroids), num_resampled)
            centroids = kmeans.train(below[chosen], min(k, len(chosen)), num_iterations, seed, moves_weak=False)
        tree.append(Level(centroids, kmeans.assign(below, centroids)[0]))
        below = centroids
    return tree


def closest(clusters: np.ndarray, similarities: np.ndarray, num: int) -> np.ndarray:
    """Members of every cluster that are nearest to its centroid, ties by the lower row.

    Args:
        clusters: [n] of every member.
        similarities: [n] to its centroid.
        num: members a cluster at most.

    Returns:
        [m] ascending rows.
    """
    order = np.lexsort((-similarities, clusters))
    ordered = clusters[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return np.sort(order[rank < num])
