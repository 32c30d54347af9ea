"""Spherical k-means over the semantic embedding of what deduplication kept (DINOv2 paper, section 3).

A unit is an image. Trained on the images that come first by id, which is a random sample; assignment is streamed.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from curation import schema
from curation.clusters import kmeans
from curation.schema import POOL
from spark_jobs import vectors
from spark_jobs.ledger import ledger_rows
from spark_jobs.stage import Context, Stage, main
from spark_jobs.tables import Outcome


def run(context: Context) -> Outcome:
    """Write ``centroids`` and ``clusters`` (the pool's images and every collection's); keep every image."""
    spark, store, recipe = context.spark, context.store, context.config.recipe.cluster
    kept = store.kept(spark, "dedup").select("image_id")
    num_kept = kept.count()
    sample = vectors.ids_of(kept.orderBy("image_id").limit(recipe.sample))
    points = vectors.load(store, recipe.model, POOL, sample).float32()
    k = min(recipe.num_clusters, len(points))
    centroids = kmeans.train(points, k, recipe.num_iterations, recipe.seed) if k else np.empty((0, 1), np.float32)
    rows = [{"cluster": i, "vector": row.tobytes()} for i, row in enumerate(centroids.astype("<f4"))]
    store.write(schema.CENTROIDS, pa.Table.from_pylist(rows, schema.CENTROIDS.schema), context.run)

    model = store.runs()["embed"].metrics[recipe.model]["digest"]
    members = store.frame(spark, schema.COLLECTIONS).select("collection", "image_id").distinct()
    members = members.unionByName(kept.select(F.lit(POOL).alias("collection"), "image_id"))
    is_ours = (F.col("model") == model) & F.col("vector").isNotNull()
    embedded = store.frame(spark, schema.embeddings(recipe.model)).where(is_ours).select("image_id", "vector")
    wanted = members.join(embedded, "image_id").select("collection", "image_id", "vector")

    def assign(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if batch.num_rows and k:
                flat = np.frombuffer(b"".join(batch.column("vector").to_pylist()), "<f2").astype(np.float32)
                cluster, similarity = kmeans.assign(flat.reshape(batch.num_rows, -1), centroids)
                columns = [
                    batch.column("collection").cast(pa.string()),
                    batch.column("image_id").cast(pa.string()),
                    pa.array(cluster, pa.int32()),
                    pa.array(similarity, pa.float32()),
                ]
                yield pa.RecordBatch.from_arrays(columns, schema=schema.CLUSTERS.schema)

    spread = wanted.repartition(context.config.runtime.partitions, "image_id")
    store.write(schema.CLUSTERS, spread.mapInArrow(assign, from_arrow_schema(schema.CLUSTERS.schema)), context.run)

    assigned = store.frame(spark, schema.CLUSTERS).where(F.col("collection") == POOL)
    decisions = ledger_rows(assigned, image_id="image_id", score="similarity", model=F.lit(model))
    return Outcome(num_kept, decisions, {"clusters": k, "training_points": len(points)})


STAGE = Stage(
    name="cluster",
    version=1,
    after="dedup",
    writes=lambda _: (schema.CENTROIDS, schema.CLUSTERS),
    run=run,
)

if __name__ == "__main__":
    main(STAGE)
