"""Spherical k-means over the semantic embedding of what deduplication kept (DINOv2 paper, section 3).

A unit is an image. Trained on the images that come first by id, which is a random sample; assignment is streamed.
Centroids are clustered again, level by level, where the recipe names levels (Vo et al. 2024).
"""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from curation import schema
from curation.clusters import hierarchy, kmeans
from curation.clusters.nearest import Nearest, Places
from curation.schema import POOL
from spark_jobs import vectors
from spark_jobs.ledger import ledger_rows
from spark_jobs.lloyd import SparkLloyd
from spark_jobs.rounds import Rounds
from spark_jobs.sampling import sample
from spark_jobs.stage import Context, Stage, main
from spark_jobs.tables import Outcome

_COPIES = 3  # of the training points while they are collected


def run(context: Context) -> Outcome:
    """Write ``centroids`` and ``clusters`` (the pool's images and every collection's); keep every image."""
    spark, store, recipe = context.spark, context.store, context.config.recipe.cluster
    kept = store.kept(spark, "dedup").select("image_id")
    num_kept = kept.count()
    embedded = vectors.frame_of(store, spark, recipe.model)
    rounds = Rounds(store, context.run.run_id)
    num_points, k = min(num_kept, recipe.sample), min(num_kept, recipe.num_clusters, recipe.sample)
    if k:
        first = kept.orderBy("image_id").limit(recipe.sample)
        centroids = _train(context, embedded.join(first, "image_id", "left_semi"), num_points, k, rounds)
        store.write(schema.CENTROIDS, _tree(context, centroids), context.run)
    else:
        store.write(schema.CENTROIDS, schema.CENTROIDS.schema.empty_table(), context.run)

    members = store.frame(spark, schema.COLLECTIONS).select("collection", "image_id").distinct()
    members = members.unionByName(kept.select(F.lit(POOL).alias("collection"), "image_id"))
    wanted = members.join(embedded, "image_id").select("collection", "image_id", "vector")

    def assign(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        nearest = Nearest(rounds.last()) if k else None
        for batch in batches:
            if batch.num_rows and nearest is not None:
                places = Places.unknown(batch.num_rows)
                nearest.update(vectors.matrix(batch.column("vector").to_pylist()), places)
                columns = [
                    batch.column("collection").cast(pa.string()),
                    batch.column("image_id").cast(pa.string()),
                    pa.array(places.clusters),
                    pa.array(places.similarities),
                ]
                yield pa.RecordBatch.from_arrays(columns, schema=schema.CLUSTERS.schema)

    spread = wanted.repartition(context.config.runtime.partitions, "image_id")
    store.write(schema.CLUSTERS, spread.mapInArrow(assign, from_arrow_schema(schema.CLUSTERS.schema)), context.run)
    rounds.remove()

    assigned = store.frame(spark, schema.CLUSTERS).where(F.col("collection") == POOL)
    model = store.runs()["embed"].metrics[recipe.model]["digest"]
    decisions = ledger_rows(assigned, image_id="image_id", score="similarity", model=F.lit(model))
    return Outcome(num_kept, decisions, {"clusters": k, "levels": recipe.levels, "training_points": num_points})


def _train(context: Context, points: DataFrame, num_points: int, k: int, rounds: Rounds) -> np.ndarray:
    """[k, d] centroids, trained here or, where that takes too much memory, in tasks: the same to the last bit."""
    recipe, runtime = context.config.recipe.cluster, context.config.runtime
    begin = vectors.matrix([row["vector"] for row in sample(points, kmeans.start_size(num_points, k))])
    dim, memory_bytes = begin.shape[1], runtime.cluster.memory_bytes
    room = memory_bytes - _COPIES * num_points * dim * begin.itemsize
    if room >= kmeans.needed_bytes(num_points, dim, k):
        rows = vectors.matrix([row["vector"] for row in sample(points, num_points)])
        improved = kmeans.Lloyd(rows, k, room).improved
    else:
        improved = SparkLloyd(points, runtime.partitions, rounds).improved
    return rounds.train(lambda: kmeans.first_centroids(begin, k, recipe.seed), improved, recipe.num_iterations)


def _tree(context: Context, bottom: np.ndarray) -> pa.Table:
    """Rows of ``centroids``: the bottom level and what is built upon it."""
    recipe = context.config.recipe.cluster
    resampling = recipe.resample_members, recipe.resample_rounds
    above = hierarchy.build(bottom, recipe.levels, recipe.num_iterations, *resampling, recipe.seed)
    levels = [bottom, *(level.centroids for level in above)]
    parents = [*(level.parents for level in above), np.full(len(levels[-1]), -1)]
    rows = [
        {"level": number, "cluster": i, "parent": parent if parent >= 0 else None, "vector": vector.tobytes()}
        for number, (centroids, mine) in enumerate(zip(levels, parents, strict=True))
        for i, (vector, parent) in enumerate(zip(centroids.astype("<f4"), mine.tolist(), strict=True))
    ]
    return pa.Table.from_pylist(rows, schema.CENTROIDS.schema)


STAGE = Stage(
    name="cluster",
    version=2,
    after="dedup",
    writes=lambda _: (schema.CENTROIDS, schema.CLUSTERS),
    run=run,
)

if __name__ == "__main__":
    main(STAGE)
