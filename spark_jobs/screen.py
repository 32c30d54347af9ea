"""Decode every image, refuse what is broken, moving, too small, too long or blank, and drop near-exact copies.

A unit is an image. What is left is looked at by the recipe's detectors of faces and unsafe content.
"""

from collections.abc import Iterable, Iterator

import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from curation import schema
from curation.images import pca_hash
from curation.images.screening import screened_rows
from curation.schema import Reason
from curation.store import Store
from spark_jobs.detections import look_at
from spark_jobs.ledger import ledger_rows
from spark_jobs.near_exact import place, projection, verified_copies
from spark_jobs.stage import Context, Stage, main
from spark_jobs.tables import Outcome


def run(context: Context) -> Outcome:
    """Write ``screened``, one row for every image, and ``detections``; decide on every image."""
    spark, store, recipe = context.spark, context.store, context.config.recipe.screen
    images = store.frame(spark, schema.IMAGES)
    hasher = projection(context, images)
    uri, kinds = store.uri, from_arrow_schema(schema.SCREENED.schema)

    def look(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with Store(uri).shard_reader() as read:
            for batch in batches:
                encoded = ((row["image_id"], read(*place(row))) for row in batch.to_pylist())
                rows = screened_rows(encoded, recipe, hasher)
                yield pa.RecordBatch.from_pylist(rows, schema=schema.SCREENED.schema)

    spread = images.repartition(context.config.runtime.partitions, "image_id")
    located = spread.sortWithinPartitions("shard", "offset_bytes")
    store.write(schema.SCREENED, located.mapInArrow(look, kinds), context.run)

    screened = store.frame(spark, schema.SCREENED)
    copies = verified_copies(context, screened.join(images, "image_id")).withColumn("copy", F.lit(True))
    copies = copies.persist(StorageLevel.DISK_ONLY)  # few rows; looked up for the detectors and for the ledger
    unlike = screened.join(copies, "image_id", "left")
    is_copy = F.col("copy").isNotNull()
    is_fit = F.col("reason").isNull() & ~is_copy
    looked = look_at(context, unlike.where(is_fit).select("image_id").join(images, "image_id"))

    def judged(copy: Column, looked_at: Column, seen: Column) -> Column:
        return F.when(is_copy, copy).when(is_fit, looked_at).otherwise(seen)

    rows = ledger_rows(
        unlike.join(looked.verdicts, "image_id", "left"),
        image_id="image_id",
        reason=judged(F.lit(Reason.PCA_HASH_DUPLICATE.value), F.col("found_reason"), F.col("reason")),
        score=judged(F.col("distance"), F.col("found_score"), F.col("score")),
        threshold=judged(F.lit(pca_hash.MAX_DISTANCE), F.col("found_threshold"), F.col("threshold")),
        evidence=judged(F.col("kept_id"), F.col("found_evidence"), F.col("detail")),
        model=judged(F.lit(hasher.digest), F.lit(looked.models), F.lit(None)),
    )
    metrics = {"pca_hash": hasher.digest, "pca_hash_bits": pca_hash.NUM_BITS}
    return Outcome(images.count(), rows, metrics | looked.metrics)


STAGE = Stage(
    name="screen",
    version=4,
    after="index",
    writes=lambda _: (schema.SCREENED, schema.DETECTIONS),
    run=run,
)

if __name__ == "__main__":
    main(STAGE)
