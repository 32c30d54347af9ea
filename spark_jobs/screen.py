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
from curation.images.decode import DecodeError, decode
from curation.images.pca_hash import PcaHash
from curation.schema import Reason
from curation.store import Store
from spark_jobs.config import Screen
from spark_jobs.ledger import ledger_rows
from spark_jobs.stage import Context, Stage, main
from spark_jobs.tables import Outcome

_THUMBNAIL = pa.schema([("thumbnail", pa.binary())])


def run(context: Context) -> Outcome:
    """Write ``screened``, one row for every image; decide on every image."""
    spark, store, recipe = context.spark, context.store, context.config.recipe.screen
    images = store.frame(spark, schema.IMAGES)
    hasher = _fitted(context, images)
    uri, kinds = store.uri, from_arrow_schema(schema.SCREENED.schema)

    def look(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with Store(uri).shard_reader() as read:
            for batch in batches:
                rows = [_screen(row, read(*_place(row)), recipe, hasher) for row in batch.to_pylist()]
                yield pa.RecordBatch.from_pylist(rows, schema=schema.SCREENED.schema)

    by_shard = images.repartition(context.config.runtime.partitions, "image_id")
    located = by_shard.sortWithinPartitions("shard", "offset_bytes")
    store.write(schema.SCREENED, located.mapInArrow(look, kinds), context.run)

    screened = store.frame(spark, schema.SCREENED).join(images.select("image_id", "size_bytes"), "image_id")
    good = F.col("reason").isNull()
    # of a group with the same hash, the one that the representative key prefers stays
    short_side = F.least("width", "height")
    quality = F.col("size_bytes") / (F.col("width").cast("double") * F.col("height"))
    group = Window.partitionBy("pca_hash").orderBy(short_side.desc(), quality.desc(), "image_id")
    ranked = screened.where(good).withColumn("first", F.first("image_id").over(group))
    is_copy = F.col("first") != F.col("image_id")
    kept = ranked.select(
        "image_id",
        F.when(is_copy, Reason.PCA_HASH_DUPLICATE.value).alias("reason"),
        F.when(is_copy, F.col("first")).alias("evidence"),
    )
    refused = screened.where(~good).select("image_id", "reason", F.col("detail").alias("evidence"))
    rows = ledger_rows(
        kept.unionByName(refused),
        image_id="image_id",
        reason="reason",
        evidence="evidence",
        model=F.when(F.col("reason") == Reason.PCA_HASH_DUPLICATE.value, F.lit(hasher.digest)),
    )
    return Outcome(images.count(), rows, {"pca_hash": hasher.digest, "pca_hash_bits": recipe.pca_hash_bits})


def _place(row: dict[str, Any]) -> tuple[str, int, int]:
    return row["shard"], row["offset_bytes"], row["size_bytes"]


def _screen(row: dict[str, Any], data: bytes, recipe: Screen, hasher: PcaHash) -> dict[str, Any]:
    facts: dict[str, Any] = {"image_id": row["image_id"]}
    try:
        decoded = decode(data, recipe.max_pixels)
    except DecodeError as error:
        return {**facts, "reason": error.reason.value, "detail": str(error)}
    facts |= {"format": decoded.format, "width": decoded.width, "height": decoded.height}
    if min(decoded.width, decoded.height) < recipe.min_side:
        sides = f"{decoded.width} x {decoded.height}, the shorter side under {recipe.min_side}"
        return {**facts, "reason": Reason.TOO_SMALL.value, "detail": sides}
    return {**facts, "pca_hash": hasher.hash(pca_hash.thumbnail(decoded.image))}


def _fitted(context: Context, images: DataFrame) -> PcaHash:
    recipe, uri = context.config.recipe.screen, context.store.uri

    def thumbnails(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with Store(uri).shard_reader() as read:
            for batch in batches:
                found = []
                for row in batch.to_pylist():
                    try:
                        image = decode(read(*_place(row)), recipe.max_pixels).image
                    except DecodeError:
                        continue
                    if min(image.size) >= recipe.min_side:
                        found.append({"thumbnail": pca_hash.thumbnail(image).tobytes()})
                yield pa.RecordBatch.from_pylist(found, schema=_THUMBNAIL)

    sample = images.orderBy("image_id").limit(recipe.pca_hash_sample)
    spread = sample.repartitionByRange(context.config.runtime.partitions, "image_id")
    rows = spread.sortWithinPartitions("image_id").mapInArrow(thumbnails, from_arrow_schema(_THUMBNAIL)).collect()
    flat = [np.frombuffer(row["thumbnail"], pca_hash.THUMBNAIL_DTYPE) for row in rows]
    stacked = np.stack(flat) if flat else np.empty((0, pca_hash.THUMBNAIL_SIDE**2), pca_hash.THUMBNAIL_DTYPE)
    return pca_hash.fit(stacked, recipe.pca_hash_bits)


STAGE = Stage(
    name="screen",
    version=1,
    after="index",
    writes=lambda _: (schema.SCREENED,),
    run=run,
)

if __name__ == "__main__":
    main(STAGE)
