"""Give every fetched or imported file its content's id, and every image one place and its sightings.

A unit is a file; the second file with the same bytes is a sighting of the same image.
"""

from collections.abc import Iterable, Iterator

import fsspec
import pyarrow as pa
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from curation import schema
from curation.images.ids import image_id
from curation.images.imports import imported_files
from curation.schema import Reason
from curation.store import Store
from spark_jobs.ledger import ledger_rows
from spark_jobs.sources import list_files
from spark_jobs.stage import Context, Stage, main
from spark_jobs.tables import Outcome


def run(context: Context) -> Outcome:
    """Write ``files``, ``images`` and ``sightings``."""
    spark, store = context.spark, context.store
    fetches = store.frame(spark, schema.FETCHES).where(F.col("reason").isNull())
    listed = _listed(context)
    context.store.write(schema.FILES, _fetched(context, fetches).unionByName(_imported(context, listed)), context.run)

    files = store.frame(spark, schema.FILES)
    name = F.coalesce("url", "path")
    first = Window.partitionBy("image_id").orderBy(name, "shard", "offset_bytes")
    ranked = files.where(F.col("image_id").isNotNull()).withColumn("order", F.row_number().over(first))
    store.write(schema.IMAGES, ranked.where("order = 1"), context.run)

    links = store.frame(spark, schema.LINKS).select("url", "page_url", "domain", "crawl", "rights").distinct()
    headers = fetches.select("url", F.col("rights").alias("header_rights"))
    seen = files.where(F.col("image_id").isNotNull()).join(headers, "url", "left").join(links, "url", "left")
    signals = F.array_sort(F.array_distinct(F.concat(*(F.coalesce(c, F.array()) for c in ("rights", "header_rights")))))
    store.write(schema.SIGHTINGS, seen.withColumn("rights", signals), context.run)

    empty = files.where(F.col("image_id").isNull()).select(
        F.lit(None).alias("image_id"), name.alias("url"), F.lit(Reason.EMPTY_FILE.value).alias("reason")
    )
    known = ranked.select(
        "image_id", name.alias("url"), F.when(F.col("order") > 1, Reason.EXACT_DUPLICATE.value).alias("reason")
    )
    evidence = F.when(F.col("reason") == Reason.EXACT_DUPLICATE.value, F.col("image_id"))
    rows = known.unionByName(empty)
    return Outcome(
        rows_in=fetches.count() + files.where("path is not null").count(),
        decisions=ledger_rows(rows, image_id="image_id", url="url", reason="reason", evidence=evidence),
        metrics={"fetched": fetches.count(), "imported": files.where("path is not null").count()},
    )


def _fetched(context: Context, fetches: DataFrame) -> DataFrame:
    uri, kinds = context.store.uri, from_arrow_schema(schema.FILES.schema)

    def identify(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with Store(uri).shard_reader() as read:
            for batch in batches:
                rows = batch.to_pylist()
                for row in rows:
                    data = read(row["shard"], row["offset_bytes"], row["size_bytes"])
                    row["image_id"], row["path"] = image_id(data) if data else None, None
                yield pa.RecordBatch.from_pylist(rows, schema=schema.FILES.schema)

    located = fetches.select("url", "shard", "offset_bytes", "size_bytes")
    by_shard = located.repartition(context.config.runtime.partitions, "shard")
    return by_shard.sortWithinPartitions("shard", "offset_bytes").mapInArrow(identify, kinds)


def _listed(context: Context) -> list[tuple[str, str, str]]:
    images = context.config.sources.images
    return [(source, f.name, f.uri) for source, root in sorted(images.items()) for f in list_files(root)]


def _imported(context: Context, listed: list[tuple[str, str, str]]) -> DataFrame:
    def identify(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for row in batch.to_pylist():
                with fsspec.open(row["uri"], "rb") as file:
                    found = imported_files(file, f"{row['source']}:{row['name']}")
                    yield pa.RecordBatch.from_pylist(list(found), schema=schema.FILES.schema)

    frame = context.spark.createDataFrame(listed, "source string, name string, uri string")
    spread = frame.repartition(context.config.runtime.partitions)
    return spread.mapInArrow(identify, from_arrow_schema(schema.FILES.schema))


STAGE = Stage(
    name="index",
    version=1,
    after="download",
    sources=("images",),
    writes=lambda _: (schema.FILES, schema.IMAGES, schema.SIGHTINGS),
    run=run,
)

if __name__ == "__main__":
    main(STAGE)
