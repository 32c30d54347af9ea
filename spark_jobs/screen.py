"""Decode every image, refuse what is broken or too small, and drop near-exact copies by their PCA hash.

A unit is an image. The hash's projection is fitted on the images that come first by id, which is a random sample.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from curation import schema
from curation.images import pca_hash
from curation.images.pca_hash import PcaHash
from curation.images.screening import screen, screened_rows
from curation.schema import Reason
from curation.store import Store
from spark_jobs.ledger import ledger_rows
from spark_jobs.stage import Context, Stage, main
from spark_jobs.tables import Outcome

_THUMBNAIL = pa.schema([("thumbnail", pa.binary())])
_COPIES = pa.schema([("image_id", pa.string()), ("kept_id", pa.string()), ("distance", pa.float64())])


def run(context: Context) -> Outcome:
    """Write ``screened``, one row for every image; decide on every image."""
    spark, store, recipe = context.spark, context.store, context.config.recipe.screen
    images = store.frame(spark, schema.IMAGES)
    hasher = _fitted(context, images)
    uri, kinds = store.uri, from_arrow_schema(schema.SCREENED.schema)

    def look(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with Store(uri).shard_reader() as read:
            for batch in batches:
                encoded = ((row["image_id"], read(*_place(row))) for row in batch.to_pylist())
                rows = screened_rows(encoded, recipe, hasher)
                yield pa.RecordBatch.from_pylist(rows, schema=schema.SCREENED.schema)

    spread = images.repartition(context.config.runtime.partitions, "image_id")
    located = spread.sortWithinPartitions("shard", "offset_bytes")
    store.write(schema.SCREENED, located.mapInArrow(look, kinds), context.run)

    screened = store.frame(spark, schema.SCREENED)
    copies = _verified_copies(context, screened.join(images, "image_id")).withColumn("copy", F.lit(True))
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


def _verified_copies(context: Context, screened: DataFrame) -> DataFrame:
    """(image_id, kept_id, distance) of images with another's hash and, looked at again, its picture too."""
    uri, recipe = context.store.uri, context.config.recipe.screen

    def verify(group: pa.Table) -> pa.Table:
        rows = group.sort_by([("order", "ascending")]).to_pylist()
        with Store(uri).shard_reader() as read:
            pictures = [screen(read(*_place(row)), recipe).thumbnail for row in rows]
        ids = [row["image_id"] for row in rows]
        found = [
            {"image_id": ids[copy], "kept_id": ids[kept], "distance": distance}
            for copy, kept, distance in pca_hash.copies(np.stack(pictures))
        ]
        return pa.Table.from_pylist(found, schema=_COPIES)

    # the representative key: the largest short side, then the least compressed, then the lowest id
    short_side = F.least("width", "height")
    bytes_per_pixel = F.col("size_bytes") / (F.col("width").cast("double") * F.col("height"))
    alike = Window.partitionBy("pca_hash")
    ordered = alike.orderBy(short_side.desc(), bytes_per_pixel.desc(), "image_id")
    hashed = screened.where("reason is null and pca_hash is not null").withColumn("order", F.row_number().over(ordered))
    several = hashed.withColumn("alike", F.count("image_id").over(alike)).where("alike > 1")
    return several.groupBy("pca_hash").applyInArrow(verify, from_arrow_schema(_COPIES))


def _place(row: dict[str, Any]) -> tuple[str, int, int]:
    return row["shard"], row["offset_bytes"], row["size_bytes"]


def _fitted(context: Context, images: DataFrame) -> PcaHash:
    recipe, uri = context.config.recipe.screen, context.store.uri

    def thumbnails(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with Store(uri).shard_reader() as read:
            for batch in batches:
                found = []
                for row in batch.to_pylist():
                    screened = screen(read(*_place(row)), recipe)
                    if screened.refusal is None and screened.thumbnail is not None:
                        found.append({"thumbnail": screened.thumbnail.tobytes()})
                yield pa.RecordBatch.from_pylist(found, schema=_THUMBNAIL)

    sample = images.orderBy("image_id").limit(recipe.pca_hash_sample)
    spread = sample.repartitionByRange(context.config.runtime.partitions, "image_id")
    rows = spread.sortWithinPartitions("image_id").mapInArrow(thumbnails, from_arrow_schema(_THUMBNAIL)).collect()
    shape = (-1, pca_hash.SIDE, pca_hash.SIDE, 3)
    pictures = np.frombuffer(b"".join(row["thumbnail"] for row in rows), np.uint8).reshape(shape)
    return pca_hash.fit(pictures)


STAGE = Stage(
    name="screen",
    version=2,
    after="index",
    writes=lambda _: (schema.SCREENED,),
    run=run,
)

if __name__ == "__main__":
    main(STAGE)
