"""Draw images from the pool by the query sets, and select the release's (DINOv2 paper, section 3: data retrieval).

A unit is an image. What every query set brings up goes to a log; selection is a pure function of that log.
"""

import pyarrow as pa
from pyspark.sql import functions as F

from curation import schema
from curation.schema import POOL, Reason
from curation.selection.balance import balanced_sample
from curation.selection.policy import select
from curation.selection.retrieval import cluster_based, everything
from spark_jobs.ledger import ledger_rows
from spark_jobs.pool_search import search_pool
from spark_jobs.stage import Context, Stage, main
from spark_jobs.tables import Outcome


def run(context: Context) -> Outcome:
    """Write ``retrievals`` (the log) and ``selection``; decide on every image of the pool."""
    spark, store, recipe = context.spark, context.store, context.config.recipe.retrieve
    kept = store.kept(spark, "cluster")
    clusters = store.table("clusters", columns=["collection", "image_id", "cluster", "similarity"])
    in_pool = clusters.filter(pa.compute.equal(clusters["collection"], POOL)).sort_by("image_id")
    wanted = {name: queries.k for name, queries in recipe.sets.items() if queries.method == "sample"}
    found = search_pool(context, kept, wanted) if wanted and in_pool.num_rows else {}
    logs = []
    for name, queries in recipe.sets.items():
        if in_pool.num_rows and not pa.compute.any(pa.compute.equal(clusters["collection"], name)).as_py():
            raise ValueError(f"recipe.retrieve.sets names {name!r}, but sources.collections.{name} holds no image")
        if queries.method == "cluster":
            mine = clusters.filter(pa.compute.equal(clusters["collection"], name))
            logs.append(
                cluster_based(
                    name,
                    mine["cluster"].to_numpy(),
                    in_pool["image_id"].to_pylist(),
                    in_pool["cluster"].to_numpy(),
                    in_pool["similarity"].to_numpy(),
                    queries.min_queries,
                    recipe.seed,
                )
            )
        elif name in found:
            logs.append(found[name])
    if recipe.balance is not None:
        logs.append(balanced_sample(store.table("centroids"), in_pool, recipe.balance.target, recipe.seed))
    if not recipe.sets and recipe.balance is None:
        logs.append(everything(POOL, in_pool["image_id"].to_pylist()))
    log = pa.concat_tables([schema.RETRIEVALS.schema.empty_table(), *logs])
    store.write(schema.RETRIEVALS, log, context.run)

    chosen = select(
        log, in_pool.select(["image_id", "cluster"]), recipe.per_cluster, recipe.per_collection, recipe.seed
    )
    store.write(schema.SELECTION, chosen.selection, context.run)
    best = store.frame(spark, schema.RETRIEVALS).groupBy("image_id").agg(F.max("similarity").alias("similarity"))
    selected = store.frame(spark, schema.SELECTION).select("image_id", F.lit(None).cast("string").alias("reason"))
    dropped = spark.createDataFrame(chosen.dropped.to_pylist(), "image_id string, reason string")
    if recipe.balance is not None:
        not_asked_for = F.col("reason") == str(Reason.NOT_RETRIEVED)
        reason = F.when(not_asked_for, str(Reason.OVER_BUDGET)).otherwise(F.col("reason"))
        dropped = dropped.withColumn("reason", reason)
    rows = ledger_rows(
        selected.unionByName(dropped).join(best, "image_id", "left"),
        image_id="image_id",
        reason="reason",
        score="similarity",
        model=F.lit(store.runs()["embed"].metrics[recipe.model]["digest"]),
    )
    metrics = {"candidates": log.num_rows, "nominal": chosen.nominal, "unique": chosen.selection.num_rows}
    return Outcome(kept.count(), rows, metrics)


STAGE = Stage(
    name="retrieve",
    version=3,
    after="cluster",
    writes=lambda _: (schema.RETRIEVALS, schema.SELECTION),
    run=run,
)

if __name__ == "__main__":
    main(STAGE)
