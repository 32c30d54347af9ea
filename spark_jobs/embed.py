"""Embed the screened images, and the evaluation and query collections, with every model of the recipe.

A unit is an image of the pool. Each model fills its own table, ``embeddings_<name>``, with float16 vectors.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from curation import schema
from curation.descriptors.base import Embedder, EmbedderSpec, load_embedder
from curation.images.decode import DecodeError, decode
from curation.images.ids import image_id
from curation.schema import POOL, Reason
from curation.store import Store, open_uri
from spark_jobs.config import CurationConfig
from spark_jobs.ledger import ledger_rows
from spark_jobs.sources import list_files
from spark_jobs.stage import Context, Stage, main
from spark_jobs.tables import Outcome


def run(context: Context) -> Outcome:
    """Write ``collections`` and one embeddings table a model; an image that a model cannot embed is dropped."""
    spark, store, recipe = context.spark, context.store, context.config.recipe.embed
    store.write(schema.COLLECTIONS, _collections(context), context.run)
    pool = store.kept(spark, "screen").select("image_id").join(store.frame(spark, schema.IMAGES), "image_id")
    pool = pool.withColumn("collection", F.lit(POOL))
    members = store.frame(spark, schema.COLLECTIONS).withColumn("shard", F.concat_ws(":", "collection", "path"))
    outside = members.select("collection", "image_id", "shard").dropDuplicates(["collection", "image_id"])
    outside = outside.withColumns({"offset_bytes": F.lit(0).cast("long"), "size_bytes": F.lit(-1).cast("long")})
    # batches must not depend on the number of partitions: a hash bucket of about the batch's size is one
    num_images = pool.count()
    wanted = pool.select(*outside.columns).unionByName(outside)
    buckets = max(1, (num_images + outside.count()) // recipe.batch_size)
    bucketed = wanted.withColumn("bucket", F.pmod(F.xxhash64("image_id"), F.lit(buckets)))

    metrics: dict[str, Any] = {}
    failed: DataFrame | None = None
    for name, spec in recipe.models.items():
        table = schema.embeddings(name)
        model = load_embedder(spec)
        metrics[name] = {"model": model.name, "kind": model.kind, "dim": model.dim, "digest": model.digest}
        work = _bucket_worker(spec, store.uri, recipe.max_pixels)
        grouped = bucketed.repartition(context.config.runtime.partitions, "bucket").groupBy("bucket")
        store.write(table, grouped.applyInArrow(work, from_arrow_schema(table.schema)), context.run)
        lost = store.frame(spark, table).where(F.col("vector").isNull())
        metrics[name]["collection_images_lost"] = lost.where(F.col("collection") != POOL).count()
        errors = lost.where(F.col("collection") == POOL).select("image_id", "error", F.lit(model.digest).alias("model"))
        failed = errors if failed is None else failed.unionByName(errors)

    pool_ids = pool.select("image_id")
    assert failed is not None, "the configuration names the models of dedup and retrieval"
    first = failed.groupBy("image_id").agg(F.min(F.struct("error", "model")).alias("failure"))
    decided = pool_ids.join(first, "image_id", "left")
    rows = ledger_rows(
        decided,
        image_id="image_id",
        reason=F.when(F.col("failure").isNotNull(), Reason.EMBEDDING_FAILED.value),
        evidence="failure.error",
        model="failure.model",
    )
    return Outcome(num_images, rows, metrics)


def _collections(context: Context) -> DataFrame:
    """One row for every file of every collection: (collection, image_id, path)."""

    def identify(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            rows = []
            for row in batch.to_pylist():
                with open_uri(row["uri"]) as file:
                    data = file.read()
                rows.append({"collection": row["collection"], "image_id": image_id(data), "path": row["path"]})
            yield pa.RecordBatch.from_pylist(rows, schema=schema.COLLECTIONS.schema)

    roots = sorted(context.config.sources.collections.items())
    listed = [(name, f.name, f.uri) for name, root in roots for f in list_files(root)]
    frame = context.spark.createDataFrame(listed, "collection string, path string, uri string")
    spread = frame.repartition(context.config.runtime.partitions)
    return spread.mapInArrow(identify, from_arrow_schema(schema.COLLECTIONS.schema))


_LOADED: dict[str, Embedder] = {}  # one model a worker process, not one a bucket


def _bucket_worker(spec: EmbedderSpec, uri: str, max_pixels: int) -> Callable[[pa.Table], pa.Table]:
    def work(group: pa.Table) -> pa.Table:
        key = spec.model_dump_json()
        if key not in _LOADED:
            _LOADED.clear()
            _LOADED[key] = load_embedder(spec)
        return _embed_bucket(group, _LOADED[key], uri, max_pixels)

    return work


def _embed_bucket(group: pa.Table, model: Embedder, uri: str, max_pixels: int) -> pa.Table:
    """Embed the images of a bucket as one batch; one that fails is a row with the error."""
    rows = group.sort_by([("image_id", "ascending"), ("collection", "ascending")]).to_pylist()
    results = [
        {"collection": r["collection"], "image_id": r["image_id"], "vector": None, "model": model.digest, "error": None}
        for r in rows
    ]
    inputs, places = [], []
    with Store(uri).shard_reader() as read:
        for place, row in enumerate(rows):
            try:
                data = read(row["shard"], row["offset_bytes"], row["size_bytes"])
                inputs.append(model.preprocess(decode(data, max_pixels).image))
                places.append(place)
            except DecodeError as error:
                results[place]["error"] = str(error)
    if inputs:
        vectors = model.embed(np.stack(inputs)).astype("<f2")
        for place, vector in zip(places, vectors, strict=True):
            if np.isfinite(vector).all():
                results[place]["vector"] = vector.tobytes()
            else:
                results[place]["error"] = "the model gives a vector that is not finite"
    return pa.Table.from_pylist(results, schema=schema.embeddings("").schema)


def tables(config: CurationConfig) -> tuple[schema.Table, ...]:
    """What this stage writes under a configuration."""
    return (schema.COLLECTIONS, *(schema.embeddings(name) for name in config.recipe.embed.models))


STAGE = Stage(
    name="embed",
    version=1,
    after="screen",
    sources=("collections",),
    writes=tables,
    run=run,
)

if __name__ == "__main__":
    main(STAGE)
