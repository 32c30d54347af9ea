"""The images of sets that are taken as they are, as far as the pool does not hold them.

They come from a set's own files and not through the stages before, so what a release may not hold is refused here: what
does not decode, moves, or was asked to go; an image that an evaluation set holds too, or that deduplication found to be
a copy of one; and what a detector calls unsafe. Size, shape and likeness to other images are not held against them.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import reduce
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from curation import schema
from curation.images.quality import QualityRules
from curation.images.screening import screen
from curation.schema import DROP, Reason
from curation.store import Store
from curation.takedown.tombstones import Tombstones, tombstones
from spark_jobs.detections import look_at
from spark_jobs.near_exact import place
from spark_jobs.stage import Context
from spark_jobs.tables import Tables

JUDGED = ("reason", "evidence", "score", "threshold")
_UNLIMITED = {"min_side": 1, "max_aspect": 1e9, "min_entropy": 0.0}
_PLACE = ("path", "shard", "offset_bytes", "size_bytes")


def judge_own_images(context: Context, kept: DataFrame) -> tuple[DataFrame, dict[str, Any]]:
    """Write ``own_images`` and ``own_detections``.

    Args:
        context: of the stage.
        kept: column image_id, the pool as it is now.

    Returns:
        (image_id, reason, evidence, score, threshold) of each of these images, the reason null where it may be
        released; and what the detectors found, for the record.
    """
    spark, store = context.spark, context.store
    if not (names := _collections(context)):
        for table in (schema.OWN_IMAGES, schema.OWN_DETECTIONS):
            store.write(table, table.schema.empty_table(), context.run)
        return store.frame(spark, schema.OWN_IMAGES).select("image_id", *JUDGED), {}
    members = _members(context, names).join(kept.select("image_id"), "image_id", "left_anti")
    spread = members.join(_refused(context), "image_id", "left")
    spread = spread.repartition(context.config.runtime.partitions, "image_id")
    located = spread.sortWithinPartitions("shard", "offset_bytes")
    rules, uri = context.config.recipe.screen.model_copy(update=_UNLIMITED), store.uri
    taken_down = tombstones(store)

    def look(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with Store(uri).shard_reader() as read:
            for batch in batches:
                rows = [row | _looked_at(row, read, rules, taken_down) for row in batch.to_pylist()]
                yield pa.RecordBatch.from_pylist(rows, schema=schema.OWN_IMAGES.schema)

    store.write(schema.OWN_IMAGES, located.mapInArrow(look, from_arrow_schema(schema.OWN_IMAGES.schema)), context.run)
    own = store.frame(spark, schema.OWN_IMAGES)
    looked = look_at(context, own.where("reason is null"), schema.OWN_DETECTIONS)
    judged = own.join(looked.verdicts, "image_id", "left")
    columns = [
        F.when(F.col("reason").isNull(), F.col(f"found_{name}")).otherwise(F.col(name)).alias(name) for name in JUDGED
    ]
    return judged.select("image_id", *columns), {"own_detections": looked.metrics.get("detections", {})}


def with_own_images(context: Context, columns: tuple[str, ...], pool: DataFrame) -> DataFrame:
    """The columns of the pool's images and, for ids that it lacks, of ``own_images``."""
    own = context.store.frame(context.spark, schema.OWN_IMAGES).join(pool.select("image_id"), "image_id", "left_anti")
    return pool.select("image_id", *columns).unionByName(own.select("image_id", *columns))


def _collections(context: Context) -> list[str]:
    """The collections of the sets taken as they are."""
    recipe = context.config.recipe.retrieve
    return sorted({recipe.collection(name) for name, queries in recipe.sets.items() if queries.method == "as_is"})


def _members(context: Context, names: list[str]) -> DataFrame:
    """One place for every image of some collections."""
    rows = context.store.frame(context.spark, schema.COLLECTIONS).where(F.col("collection").isin(names))
    rows = rows.withColumn("path", F.concat_ws(":", "collection", "path"))
    return rows.groupBy("image_id").agg(F.min(F.struct(*_PLACE)).alias("place")).select("image_id", "place.*")


def _refused(context: Context) -> DataFrame:
    """One row (image_id, reason, evidence) for every image that no set may bring into a release."""
    spark, store, config = context.spark, context.store, context.config
    copy = F.lit(Reason.EVALUATION_COPY.value)
    held = store.frame(spark, schema.COLLECTIONS).where(F.col("collection").isin(config.recipe.dedup.against))
    found = store.frame(spark, schema.DECISIONS).where(F.col("run_id") == store.runs()["dedup"].run_id)
    found = found.where((F.col("decision") == DROP) & (F.col("reason") == copy))
    parts = [
        held.select("image_id", F.lit(0).alias("order"), F.concat_ws(":", "collection", "path").alias("evidence")),
        found.select("image_id", F.lit(1).alias("order"), "evidence"),  # an edge to such an image, or a group with one
    ]
    for name in config.recipe.dedup.against:
        if (uri := config.sources.stores.get(name)) is not None:
            theirs = Tables(uri).kept(spark, "embed").select("image_id")
            parts.append(theirs.select("image_id", F.lit(0).alias("order"), F.lit(name).alias("evidence")))
    why = F.min(F.struct("order", "evidence")).alias("why")
    first = reduce(DataFrame.unionByName, parts).groupBy("image_id").agg(why)
    return first.select("image_id", copy.alias("reason"), "why.evidence")


def _looked_at(row: Mapping[str, Any], read: Any, rules: QualityRules, gone: Tombstones | None) -> dict[str, Any]:
    """What decoding shows of an image that is not refused already, or was not taken down."""
    if gone is not None and (request := gone.of_image(row["image_id"])) is not None:
        return {"reason": Reason.TAKEN_DOWN.value, "evidence": f"request {request}"}
    if row["reason"] is not None:
        return {}
    try:
        screened = screen(read(*place(dict(row))), rules)
    except OSError as error:
        return {"reason": Reason.UNREADABLE.value, "evidence": f"{row['path']}: {error.strerror}"}
    found: dict[str, Any] = {}
    if (header := screened.header) is not None:
        found |= {"format": header.format, "width": header.width, "height": header.height}
    if (refusal := screened.refusal) is not None:
        found |= {"reason": refusal.reason.value, "evidence": refusal.detail}
        found |= {"score": refusal.score, "threshold": refusal.threshold}
    return found
