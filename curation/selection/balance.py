"""A balanced sample from a tree of clusters (Vo et al. 2024, section 3.4): each concept gives as much as the others.

From the top down, a cluster's budget is shared out among its children so that all give the same number, or all they
have. The budget is met exactly, no image is taken twice, and which of a cluster's images are taken follows from the
hash order of their ids: an image that is added displaces at most one.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from curation.schema import POOL
from curation.selection.hash_order import Ids, hash_order, ranked
from curation.selection.retrieval import candidates
from curation.wide import wide


def allocate(sizes: np.ndarray, target: int, priority: np.ndarray) -> np.ndarray:
    """How many each of some clusters gives: min(x, size), with the x at which the sum is the target.

    Where no whole x is, those that could give x + 1 do so in the order of their priority until the target is met.

    Args:
        sizes: [n] what each has.
        target: the sum wanted; all give everything where there is no more.
        priority: [n] to be sorted ascending, all different.

    Returns:
        [n] int64 that sum to the target, or to all there is.
    """
    sizes = np.asarray(sizes, np.int64)
    target = min(int(target), int(sizes.sum()))
    order = np.sort(sizes)
    num = len(order)
    full = np.concatenate([[0], np.cumsum(order)[:-1]]) if num else np.zeros(0, np.int64)
    # if the i smallest give all they have, the others can give this much each
    share = (target - full) // np.arange(num, 0, -1) if num else full
    limits = np.flatnonzero(share < order)
    if not len(limits):
        return sizes.copy()
    each = int(share[limits[0]])
    taken = np.minimum(sizes, each)
    more = np.flatnonzero(sizes > each)
    more = more[np.argsort(priority[more], kind="stable")]
    taken[more[: target - int(taken.sum())]] += 1
    return taken


def budgets(num_images: np.ndarray, parents: Sequence[np.ndarray], target: int, seed: int) -> np.ndarray:
    """How many images each cluster of the bottom level gives.

    Args:
        num_images: [k] of every cluster of the bottom level.
        parents: for each level but the top one, from the bottom: [clusters of that level] their cluster one above.
        target: images in all.
        seed: of the order in which clusters give one more.

    Returns:
        [k] int64 that sum to the target, or to all there is.
    """
    sizes = [np.asarray(num_images, np.int64)]
    for above in parents:
        sizes.append(np.bincount(above, sizes[-1], minlength=int(above.max(initial=-1)) + 1).astype(np.int64))
    budget = allocate(sizes[-1], target, _priority(len(parents), len(sizes[-1]), seed))
    for level in range(len(parents) - 1, -1, -1):
        above, priority = parents[level], _priority(level, len(sizes[level]), seed)
        order = np.argsort(above, kind="stable")
        shared = np.zeros(len(above), np.int64)
        for children in np.split(order, np.flatnonzero(np.diff(above[order])) + 1) if len(order) else []:
            shared[children] = allocate(sizes[level][children], budget[above[children[0]]], priority[children])
        budget = shared
    return budget


def first_of_each(image_ids: Ids, clusters: np.ndarray, budget: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The images that clusters give: as many as their budgets, the first in the hash order of their ids.

    Args:
        image_ids: [n] distinct.
        clusters: [n] of every image.
        budget: [k] images of each cluster.
        seed: of the hash order.

    Returns:
        rows and their ranks from 1, by cluster and rank.
    """
    order, rank = ranked(image_ids, clusters, seed, "balance")
    is_taken = rank <= budget[clusters[order]]
    return order[is_taken], rank[is_taken]


def balanced_sample(centroids: pa.Table, pool: pa.Table, target: int, seed: int) -> pa.Table:
    """Draw a balanced sample.

    Args:
        centroids: rows as in ``curation.schema.CENTROIDS``: the tree.
        pool: columns image_id (distinct), cluster (of level 0) and similarity (to its centroid).
        target: images wanted.
        seed: of the hash orders.

    Returns:
        Rows as in ``curation.schema.RETRIEVALS``, one for every image that is taken, by cluster and rank; the rank
        is that in the hash order of its cluster, from 1.
    """
    tree = centroids.select(["level", "cluster", "parent"]).sort_by([("level", "ascending"), ("cluster", "ascending")])
    levels = tree["level"].to_numpy()
    top = levels.max(initial=0)
    parents = [tree["parent"].filter(pa.array(levels == level)).to_numpy() for level in range(top)]
    pool, clusters = wide(pool.select(["image_id", "similarity"])), pool["cluster"].to_numpy()
    budget = budgets(np.bincount(clusters, minlength=int((levels == 0).sum())), parents, target, seed)
    rows, rank = first_of_each(pool["image_id"], clusters, budget, seed)
    taken = pool.take(pa.array(rows))
    return candidates(POOL, taken["image_id"], rank, taken["similarity"], "balanced")


def _priority(level: int, num: int, seed: int) -> np.ndarray:
    """An order of a level's clusters by a hash of level and number: equal keys, should there be any, by number."""
    keys = hash_order([f"{level}/{cluster}" for cluster in range(num)], seed, "balance")
    place = np.empty(num, np.int64)
    place[np.argsort(keys, kind="stable")] = np.arange(num)
    return place
