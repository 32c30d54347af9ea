"""Decode every image, refuse what is broken, moving, too small, too long or blank, and drop near-exact copies.

A unit is an image.
"""

from collections.abc import Iterable, Iterator

import pyarrow as pa
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from curation import schema
from curation.images import pca_hash
from curation.images.screening import screened_rows
from curation.schema import Reason
from curation.store import Store
from spark_jobs.ledger import ledger_rows
from spark_jobs.near_exact import place, projection, verified_copies
from spark_jobs.stage import Context, Stage, main
from spark_jobs.tables import Outcome


def run(context: Context) -> Outcome:
    """Write ``screened``, one row for every image; decide on every image."""
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
    decided = screened.join(copies, "image_id", "left")
    is_copy = F.col("copy").isNotNull()
    rows = ledger_rows(
        decided,
        image_id="image_id",
        reason=F.when(is_copy, Reason.PCA_HASH_DUPLICATE.value).otherwise(F.col("reason")),
        score=F.when(is_copy, F.col("distance")).otherwise(F.col("score")),
        threshold=F.when(is_copy, F.lit(pca_hash.MAX_DISTANCE)).otherwise(F.col("threshold")),
        evidence=F.when(is_copy, F.col("kept_id")).otherwise(F.col("detail")),
        model=F.when(is_copy, F.lit(hasher.digest)),
    )
    return Outcome(images.count(), rows, {"pca_hash": hasher.digest, "pca_hash_bits": pca_hash.NUM_BITS})


STAGE = Stage(
    name="screen",
    version=2,
    after="index",
    writes=lambda _: (schema.SCREENED,),
    run=run,
)

if __name__ == "__main__":
    main(STAGE)
