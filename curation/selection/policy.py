"""Which candidates are taken: a pure function of the retrieval log.

Candidates are gone through in one order, and each is taken while its query or cluster, and its set, have room: images
that a set brings as they are; then the first candidate of every query, the second of every query, and so on, the most
similar first; then those of clusters, by a hash. Policy ``paper`` fills every share as if there were no other, so that
an image counts wherever it comes up; by ``unique`` an image that somebody has taken is passed over, and the query or
cluster goes on to its next candidate. Sorting m candidates takes O(m log m), going through them O(m).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.neighbours.compiled import compiled
from curation.schema import SELECTION, Reason
from curation.selection.hash_order import hash_order
from curation.wide import narrow, wide

Policy = Literal["paper", "unique"]
# an image that came by several ways counts for the first
_SOURCE_ORDER = ("all", "as_is", "sample", "cluster", "balanced")
_NO_LIMIT = np.iinfo(np.int64).max
_DROPPED = pa.schema({"image_id": pa.string(), "reason": pa.string()})


@dataclass(frozen=True)
class Limits:
    """What a set may take: ``each``, images a query or cluster; ``total``, images of the set; None: no limit."""

    each: int | None = None
    total: int | None = None


@dataclass(frozen=True)
class Taken:
    """What a set took.

    Attributes:
        rows: candidates, an image as often as it came up.
        distinct: images among them.
        credited: images that stand under the set's name in the selection; over all sets, the length of that.
    """

    rows: int
    distinct: int
    credited: int


@dataclass(frozen=True)
class Selected:
    """What was taken and what was not.

    Attributes:
        selection: rows as in ``curation.schema.SELECTION``, one an image, by image id.
        dropped: (image_id, reason) of every other image, by image id; OVER_CAP where some set brought it up.
        sets: what each set of the log took.
    """

    selection: pa.Table
    dropped: pa.Table
    sets: dict[str, Taken]


def select(
    log: pa.Table, pool: pa.Table, limits: Mapping[str, Limits], seed: int, policy: Policy = "paper"
) -> Selected:
    """Take candidates within the limits, each image once.

    Candidates of clusters come in the order of a hash of set and image, so with one that is added no more than one
    goes. Of several candidates that bring an image the selection tells the first in order.

    Args:
        log: rows as in ``curation.schema.RETRIEVALS``, in any order.
        pool: columns image_id (distinct) and cluster (int32, may be null) of every image to decide on.
        limits: by the sets' names; a set that is not named has none.
        seed: of the hash.
        policy: as above.

    Raises:
        ValueError: a candidate is not in the pool, a source is unknown, or a pool image is listed twice.
    """
    log, pool = wide(log), _by_id(wide(pool.select(["image_id", "cluster"])))
    found = pc.index_in(log["image_id"], pool["image_id"])
    _check(log, pool, found)
    names, image = sorted(pc.unique(log["collection"]).to_pylist()), found.to_numpy()
    collection = pc.index_in(log["collection"], pa.array(names, pa.string())).to_numpy()
    order, owner = _order(log, image, collection, seed), _owners(log, pool, image, collection)
    each, total = (
        np.array([getattr(limits.get(n, Limits()), key) or _NO_LIMIT for n in names], np.int64)
        for key in ("each", "total")
    )
    shares = each, total, int(owner.max(initial=-1)) + 1, len(pool), policy == "unique"
    taken = order[_taken(image[order], owner[order], collection[order], *shares)]

    images, first = np.unique(image[taken], return_index=True)
    best = log.take(pa.array(taken[first])).append_column("cluster", pool["cluster"].take(pa.array(images)))
    selection = narrow(best.select(SELECTION.schema.names), SELECTION.schema)
    came_up, is_left = np.zeros(len(pool), np.bool_), np.ones(len(pool), np.bool_)
    came_up[image], is_left[images] = True, False
    reason = pc.if_else(pa.array(came_up[is_left]), str(Reason.OVER_CAP), str(Reason.NOT_RETRIEVED))
    left = pool.select(["image_id"]).filter(pa.array(is_left))
    dropped = narrow(left.append_column("reason", reason.cast(pa.large_string())), _DROPPED)
    return Selected(selection, dropped, _counted(names, collection, image, taken, taken[first]))


def _order(log: pa.Table, image: np.ndarray, collection: np.ndarray, seed: int) -> np.ndarray:
    """The order in which candidates are gone through; that of the rows does not matter."""
    place = log["rank"].to_numpy().astype(np.uint64)
    by_cluster = pc.equal(log["source"], "cluster").to_numpy()
    for number in np.unique(collection[by_cluster]):
        rows = np.flatnonzero(by_cluster & (collection == number))
        mine = log.take(rows)
        place[rows] = hash_order(mine["image_id"], seed, mine["collection"][0].as_py())
    similarity = pc.fill_null(log["similarity"], 0.0).to_numpy()
    phase = pc.index_in(log["source"], pa.array(_SOURCE_ORDER)).to_numpy()
    query = _codes(log["query_id"])
    return np.lexsort((image, query, collection, -similarity, place, phase))


def _owners(log: pa.Table, pool: pa.Table, image: np.ndarray, collection: np.ndarray) -> np.ndarray:
    """[m] whose share a candidate belongs to: the same number for one query, or one cluster, of one set."""
    cluster = pc.fill_null(pool["cluster"], -1).to_numpy()[image].astype(np.int64)
    query = _codes(log["query_id"])  # from 0; -1 where there is none
    within = np.where(query >= 0, query, query.max(initial=-1) + 2 + cluster)
    return np.unique(collection.astype(np.int64) * (within.max(initial=0) + 1) + within, return_inverse=True)[1]


def _codes(texts: pa.ChunkedArray) -> np.ndarray:
    """[m] int64 in the order of the texts; -1 for null."""
    distinct = pc.unique(texts).drop_null()
    ordered = distinct.take(pc.array_sort_indices(distinct))
    return pc.fill_null(pc.index_in(texts, ordered), -1).to_numpy().astype(np.int64)


@compiled
def _taken(
    image: np.ndarray,
    owner: np.ndarray,
    collection: np.ndarray,
    each: np.ndarray,
    total: np.ndarray,
    num_owners: int,
    num_images: int,
    once: bool,
) -> np.ndarray:
    """[m] bool, which candidates of the order are taken."""
    of_owner, of_set = np.zeros(num_owners, np.int64), np.zeros(len(total), np.int64)
    is_taken = np.zeros(num_images, np.bool_)
    taken = np.zeros(len(image), np.bool_)
    for row in range(len(image)):
        mine = collection[row]
        if of_owner[owner[row]] >= each[mine] or of_set[mine] >= total[mine] or (once and is_taken[image[row]]):
            continue
        of_owner[owner[row]] += 1
        of_set[mine] += 1
        is_taken[image[row]] = True
        taken[row] = True
    return taken


def _counted(
    names: list[str], collection: np.ndarray, image: np.ndarray, taken: np.ndarray, best: np.ndarray
) -> dict[str, Taken]:
    num_images = int(image.max(initial=0)) + 1
    distinct = np.unique(collection[taken].astype(np.int64) * num_images + image[taken]) // num_images
    parts = (collection[taken], distinct, collection[best])
    counts = (np.bincount(part, minlength=len(names)).tolist() for part in parts)
    return {name: Taken(*numbers) for name, *numbers in zip(names, *counts, strict=True)}


def _by_id(pool: pa.Table) -> pa.Table:
    """Sorted by image id; a large one that is already, is not copied."""
    ids = pool["image_id"]
    ascends = pc.all(pc.less_equal(ids[:-1], ids[1:])).as_py()
    return (pool if ascends else pool.sort_by("image_id")).combine_chunks()


def _check(log: pa.Table, pool: pa.Table, found: pa.ChunkedArray) -> None:
    ids = pool["image_id"]
    if pc.any(pc.equal(ids[:-1], ids[1:])).as_py():  # they ascend
        raise ValueError("an image is listed twice in the pool; every image belongs to one cluster")
    unknown = set(pc.unique(log["source"]).to_pylist()) - set(_SOURCE_ORDER)
    if unknown:
        raise ValueError(f"retrieval source {sorted(unknown)} is unknown; the sources are {', '.join(_SOURCE_ORDER)}")
    if found.null_count:
        strangers = log.filter(pc.is_null(found))
        raise ValueError(f"candidate {strangers['image_id'][0]} is not in the pool; run the retrieve stage again")
