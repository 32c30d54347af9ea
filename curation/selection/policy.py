"""Which candidates are taken: a pure function of the retrieval log."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.schema import SELECTION, Reason
from curation.selection.hash_order import hash_order

_SOURCE_ORDER = ("all", "sample", "cluster", "balanced")  # an image that came by several ways counts for the first


@dataclass(frozen=True)
class Selected:
    """What was taken and what was not.

    Attributes:
        selection: rows as in ``curation.schema.SELECTION``, one an image, by image id.
        dropped: (image_id, reason) of every other pool image, by image id; OVER_CAP where some set brought it up.
        nominal: images taken per query set, counted in each set that brought them up. The paper's figures
            (k x N, 10,000 a cluster) are of this kind; the length of ``selection`` is the unique count.
    """

    selection: pa.Table
    dropped: pa.Table
    nominal: dict[str, int]


def select(log: pa.Table, pool: pa.Table, per_cluster: int, per_collection: int, seed: int) -> Selected:
    """Take every candidate within the caps, each image once (policy ``unique``).

    The caps hold for cluster-based candidates, as in the paper (10,000 a cluster, 1 M a query set). Both cut
    in hash order, so a cap moves by at most one image for each that is added. An image over the cap of one
    set is still taken if another set takes it. Of several ways to an image the row tells the best: as is, sample,
    cluster; then the best rank, the highest similarity, the first set by name.

    Args:
        log: rows as in ``curation.schema.RETRIEVALS``, in any order.
        pool: columns image_id (distinct) and cluster (int32, may be null).
        per_cluster: images that one cluster gives to one query set.
        per_collection: cluster-based images of one query set.
        seed: of the hash order.

    Raises:
        ValueError: a candidate is not in the pool, a source is unknown, or a pool image is listed twice.
    """
    _check(log, pool)
    taken = _within_caps(log, per_cluster, per_collection, seed)
    nominal = {
        name: len(pc.unique(taken.filter(pc.equal(taken["collection"], name))["image_id"]))
        for name in sorted(pc.unique(log["collection"]).to_pylist())
    }
    priority = pc.index_in(taken["source"], pa.array(_SOURCE_ORDER))
    best = (
        taken.append_column("priority", priority)
        .sort_by(
            [
                ("image_id", "ascending"),
                ("priority", "ascending"),
                ("rank", "ascending"),
                ("similarity", "descending"),
                ("collection", "ascending"),
            ]
        )
        .combine_chunks()
    )
    ids = best["image_id"].to_numpy(zero_copy_only=False)
    best = best.filter(pa.array(np.append(True, ids[1:] != ids[:-1])[: len(ids)], pa.bool_()))
    cluster = pc.take(pool["cluster"], pc.index_in(best["image_id"], pool["image_id"]))
    selection = best.append_column("cluster", cluster).select(SELECTION.schema.names).cast(SELECTION.schema)

    left = pool.select(["image_id"]).filter(pc.invert(pc.is_in(pool["image_id"], selection["image_id"])))
    reason = pc.if_else(pc.is_in(left["image_id"], log["image_id"]), str(Reason.OVER_CAP), str(Reason.NOT_RETRIEVED))
    return Selected(selection, left.append_column("reason", reason).sort_by("image_id"), nominal)


def _within_caps(log: pa.Table, per_cluster: int, per_collection: int, seed: int) -> pa.Table:
    is_cluster = pc.equal(log["source"], "cluster")
    kept = [log.filter(pc.invert(is_cluster))]
    candidates = log.filter(pc.and_(is_cluster, pc.less_equal(log["rank"], per_cluster)))
    for name in sorted(pc.unique(candidates["collection"]).to_pylist()):
        rows = candidates.filter(pc.equal(candidates["collection"], name))
        if len(rows) > per_collection:
            ids = rows["image_id"].to_numpy(zero_copy_only=False)
            rows = rows.take(np.lexsort((ids.astype(str), hash_order(ids, seed)))[:per_collection])
        kept.append(rows)
    return pa.concat_tables(kept)


def _check(log: pa.Table, pool: pa.Table) -> None:
    if len(pc.unique(pool["image_id"])) != len(pool):
        raise ValueError("an image is listed twice in the pool; every image belongs to one cluster")
    unknown = set(pc.unique(log["source"]).to_pylist()) - set(_SOURCE_ORDER)
    if unknown:
        raise ValueError(f"retrieval source {sorted(unknown)} is unknown; the sources are {', '.join(_SOURCE_ORDER)}")
    strangers = log.filter(pc.invert(pc.is_in(log["image_id"], pool["image_id"])))
    if len(strangers):
        raise ValueError(f"candidate {strangers['image_id'][0]} is not in the pool; run the retrieve stage again")
