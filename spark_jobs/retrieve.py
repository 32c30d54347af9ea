"""Draw images from the pool by the query sets, and select the release's (DINOv2 paper, section 3: data retrieval).

A unit is an image. What every query set brings up goes to a log; selection is a pure function of that log.
"""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from curation import schema
from curation.neighbours import knn
from curation.schema import POOL
from curation.selection.policy import select
from curation.selection.retrieval import cluster_based, everything, sample_based
from spark_jobs import vectors
from spark_jobs.ledger import ledger_rows
from spark_jobs.stage import Context, Stage, main
from spark_jobs.tables import Outcome


def run(context: Context) -> Outcome:
    """Write ``retrievals`` (the log) and ``selection``; decide on every image of the pool."""
    spark, store, recipe = context.spark, context.store, context.config.recipe.retrieve
    kept = store.kept(spark, "cluster")
    clusters = store.table("clusters", columns=["collection", "image_id", "cluster", "similarity"])
    in_pool = clusters.filter(pa.compute.equal(clusters["collection"], POOL)).sort_by("image_id")
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
        else:
            logs.append(_sample_based(context, name, queries.k, in_pool["image_id"]))
    if not recipe.sets:
        logs.append(everything(POOL, in_pool["image_id"].to_pylist()))
    log = pa.concat_tables(logs)
    store.write(schema.RETRIEVALS, log, context.run)

    chosen = select(
        log, in_pool.select(["image_id", "cluster"]), recipe.per_cluster, recipe.per_collection, recipe.seed
    )
    store.write(schema.SELECTION, chosen.selection, context.run)
    best = store.frame(spark, schema.RETRIEVALS).groupBy("image_id").agg(F.max("similarity").alias("similarity"))
    selected = store.frame(spark, schema.SELECTION).select("image_id", F.lit(None).cast("string").alias("reason"))
    dropped = spark.createDataFrame(chosen.dropped.to_pylist(), "image_id string, reason string")
    rows = ledger_rows(
        selected.unionByName(dropped).join(best, "image_id", "left"),
        image_id="image_id",
        reason="reason",
        score="similarity",
        model=F.lit(store.runs()["embed"].metrics[recipe.model]["digest"]),
    )
    metrics = {"candidates": log.num_rows, "nominal": chosen.nominal, "unique": chosen.selection.num_rows}
    return Outcome(kept.count(), rows, metrics)


def _sample_based(context: Context, name: str, k: int, pool_ids: pa.ChunkedArray) -> pa.Table:
    """Search the pool for every query image of a set, a slice of the queries a task."""
    recipe, store, spark = context.config.recipe.retrieve, context.store, context.spark
    pool = vectors.load(store, recipe.model, POOL, pool_ids.combine_chunks())
    queries = vectors.load(store, recipe.model, name)
    if not len(pool) or not len(queries):
        return schema.RETRIEVALS.schema.empty_table()
    folder = Path(store.path("indexes", context.run.run_id)).absolute()
    vectors.publish(folder, POOL, pool)
    vectors.publish(folder, name, queries)

    def search(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        base, base_ids = vectors.vectors_at(folder, POOL), vectors.ids_at(folder, POOL)
        index = knn.load(folder / f"{POOL}.faiss")
        for batch in batches:
            for start in batch.column("start").to_pylist():
                wanted = vectors.vectors_at(folder, name)[start : start + vectors.SLICE]
                ids = vectors.ids_at(folder, name)[start : start + vectors.SLICE]
                rows, similarities = knn.top_k(index, base, np.asarray(wanted), k)
                yield from sample_based(name, ids.tolist(), base_ids.tolist(), rows, similarities).to_batches()

    starts = spark.range(0, len(queries), vectors.SLICE).withColumnRenamed("id", "start")
    spread = starts.repartition(context.config.runtime.partitions)
    found = spread.mapInArrow(search, from_arrow_schema(schema.RETRIEVALS.schema)).toArrow()
    shutil.rmtree(folder)
    ordered = found.cast(schema.RETRIEVALS.schema)
    return ordered.sort_by([("query_id", "ascending"), ("rank", "ascending")])


STAGE = Stage(
    name="retrieve",
    version=1,
    after="cluster",
    writes=lambda _: (schema.RETRIEVALS, schema.SELECTION),
    run=run,
)

if __name__ == "__main__":
    main(STAGE)
