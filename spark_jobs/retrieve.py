"""Draw images from the pool by the query sets, and select the release's (DINOv2 paper, section 3: data retrieval).

A unit is an image: of the pool, or of a set that is taken as it is and of which the pool has no such image. What every
set brings up goes to a log; selection is a pure function of that log.
"""

from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from curation import schema
from curation.composition import nominal
from curation.schema import POOL, Reason
from curation.selection import concepts
from curation.selection.balance import balanced_sample
from curation.selection.policy import Limits, Selected, Taken, select
from curation.selection.retrieval import cluster_based, drawn_from, everything
from curation.wide import wide
from spark_jobs.ledger import ledger_rows
from spark_jobs.own_images import JUDGED, judge_own_images
from spark_jobs.pool_search import search_pool
from spark_jobs.stage import Context, Stage, main
from spark_jobs.tables import Outcome


def run(context: Context) -> Outcome:
    """Write ``retrievals`` (the log), ``selection`` and what lies outside of the pool; decide on every image."""
    spark, store, recipe = context.spark, context.store, context.config.recipe.retrieve
    kept = store.kept(spark, "cluster")
    judged, seen = judge_own_images(context, kept)
    own = judged.toArrow().sort_by("image_id")
    clusters = store.table("clusters", columns=["collection", "image_id", "cluster", "similarity"])
    in_pool = wide(_of(clusters, POOL)).sort_by("image_id")
    to_choose_from = pa.concat_tables([in_pool.select(["image_id", "cluster"]), wide(_admitted(own, clusters))])

    log = _log(context, kept, clusters, in_pool, to_choose_from["image_id"])
    store.write(schema.RETRIEVALS, log, context.run)
    limits = {name: Limits(*recipe.limits(name)) for name in recipe.sets}
    chosen = select(log, to_choose_from, limits, recipe.seed, recipe.policy)
    store.write(schema.SELECTION, chosen.selection, context.run)

    best = store.frame(spark, schema.RETRIEVALS).groupBy("image_id").agg(F.max("similarity").alias("similarity"))
    selected = store.frame(spark, schema.SELECTION).select("image_id", F.lit(None).cast("string").alias("reason"))
    dropped = spark.createDataFrame(chosen.dropped)
    if recipe.balance is not None:
        not_asked_for = F.col("reason") == str(Reason.NOT_RETRIEVED)
        reason = F.when(not_asked_for, str(Reason.OVER_BUDGET)).otherwise(F.col("reason"))
        dropped = dropped.withColumn("reason", reason)
    decided = selected.unionByName(dropped).join(best, "image_id", "left")
    decided = decided.withColumns({"evidence": F.lit(None).cast("string"), "threshold": F.lit(None).cast("double")})
    decided = decided.withColumn("score", F.col("similarity").cast("double")).select("image_id", *JUDGED)
    refused = judged.where("reason is not null").select("image_id", *JUDGED)
    rows = ledger_rows(
        decided.unionByName(refused),
        image_id="image_id",
        **{name: name for name in JUDGED},
        model=F.lit(store.runs()["embed"].metrics[recipe.model]["digest"]),
    )
    metrics = {
        "candidates": log.num_rows,
        "unique": chosen.selection.num_rows,
        "sets": _sets(context, clusters, chosen),
        **_concepts(context, clusters, in_pool, chosen.selection),
        **seen,
    }
    return Outcome(kept.count() + own.num_rows, rows, metrics)


def _of(rows: pa.Table, collection: str) -> pa.Table:
    return rows.filter(pc.equal(rows["collection"], collection))


def _admitted(own: pa.Table, clusters: pa.Table) -> pa.Table:
    """(image_id, cluster) of the images outside of the pool that may be released; without a vector, no cluster."""
    ids = own.filter(pc.is_null(own["reason"]))["image_id"]
    return pa.table({"image_id": ids, "cluster": clusters["cluster"].take(pc.index_in(ids, clusters["image_id"]))})


def _log(context: Context, kept: DataFrame, clusters: pa.Table, in_pool: pa.Table, there: pa.ChunkedArray) -> pa.Table:
    """Every candidate of every set, among the pool and the images ``there``."""
    recipe = context.config.recipe.retrieve
    logs = [schema.RETRIEVALS.schema.empty_table()]
    if recipe.balance is not None:
        centroids = context.store.table("centroids")
        logs.append(balanced_sample(centroids, in_pool, recipe.balance.target, recipe.seed))
    elif not recipe.sets:
        logs.append(everything(POOL, in_pool["image_id"]))
    members = context.store.table("collections", columns=["collection", "image_id"])
    wanted: dict[str, int] = {}
    for name, queries in recipe.sets.items():
        collection = recipe.collection(name)
        if not len(_of(members, collection)):
            raise ValueError(
                f"recipe.retrieve.sets.{name} draws by {collection!r}, but sources.collections.{collection} holds no "
                "image"
            )
        if queries.method == "sample":
            wanted[collection] = max(recipe.candidates(name), wanted.get(collection, 0))
    found = search_pool(context, kept, wanted) if wanted and len(in_pool) else {}
    for name, queries in recipe.sets.items():
        collection = recipe.collection(name)
        if queries.method == "cluster":
            mine = _of(clusters, collection)["cluster"].to_numpy()
            places = in_pool["cluster"].to_numpy(), in_pool["similarity"].to_numpy()
            logs.append(cluster_based(name, mine, in_pool["image_id"], *places, queries.min_queries, recipe.seed))
        elif queries.method == "as_is":
            mine = pc.unique(_of(members, collection)["image_id"])
            logs.append(everything(name, mine.filter(pc.is_in(mine.cast(there.type), there)), "as_is"))
        elif collection in found:
            near = found[collection].filter(pc.less_equal(found[collection]["rank"], recipe.candidates(name)))
            logs.append(near.set_column(0, near.schema.field(0), pa.array([name] * len(near), pa.string())))
    return pa.concat_tables(logs)


def _sets(context: Context, clusters: pa.Table, chosen: Selected) -> dict[str, dict[str, Any]]:
    """What every set was asked for and took, as ``curation.composition`` reads it."""
    recipe = context.config.recipe.retrieve
    members = context.store.table("collections", columns=["collection", "image_id"])
    sets = {}
    for name, queries in recipe.sets.items():
        collection = recipe.collection(name)
        held = _of(members if queries.method == "as_is" else clusters, collection)
        images = len(pc.unique(held["image_id"]))
        by_cluster = queries.method == "cluster"
        units = len(drawn_from(held["cluster"].to_numpy(), queries.min_queries)) if by_cluster else images
        retrieved, final = nominal(units, *recipe.limits(name))
        taken = asdict(chosen.sets.get(name, Taken(0, 0, 0)))
        sets[name] = taken | {"images": images, "units": units, "retrieved": retrieved, "nominal": final}
    return sets


def _concepts(context: Context, clusters: pa.Table, in_pool: pa.Table, selection: pa.Table) -> dict[str, Any]:
    """How even the pool and the selection are, and in which clusters each set lies."""
    recipe, num = context.config.recipe.retrieve, _num_clusters(context)
    parts = {"pool": in_pool, "selection": selection}
    return {
        "balance": {
            name: concepts.balance(concepts.sizes(rows["cluster"].drop_null().to_numpy(), num))
            for name, rows in parts.items()
        },
        "concepts": {
            name: concepts.nearest_clusters(_of(clusters, recipe.collection(name))["cluster"].to_numpy())
            for name in recipe.sets
        },
    }


def _num_clusters(context: Context) -> int:
    """Of the level that images belong to."""
    return context.store.table("centroids", ["cluster"], pc.field("level") == 0).num_rows


def notes(metrics: dict[str, Any]) -> list[str]:
    """What a user should see of a finished run."""
    lines = [concepts.sentence(metrics["balance"])]
    for name, taken in metrics["sets"].items():
        at = ", ".join(f"{cluster} ({count:,})" for cluster, count in metrics["concepts"][name])
        lines.append(
            f"{name}: {taken['nominal']:,} asked for, {taken['rows']:,} taken, {taken['distinct']:,} different, "
            f"{taken['credited']:,} under its name; it lies mostly in clusters {at or 'unknown'}"
        )
    return lines


STAGE = Stage(
    name="retrieve",
    version=4,
    after="cluster",
    writes=lambda _: (schema.OWN_IMAGES, schema.OWN_DETECTIONS, schema.RETRIEVALS, schema.SELECTION),
    run=run,
    notes=notes,
)

if __name__ == "__main__":
    main(STAGE)
