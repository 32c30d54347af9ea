"""Give every fetched or imported file its content's id, and every image one place and its sightings.

A unit is a file; the second file with the same bytes is a sighting of the same image. Files that are there already are
pictures in folders, members of tars and rows of Parquet (see docs/importing.md).
"""

import io
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, BinaryIO

import pyarrow as pa
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from curation import schema
from curation.images.copies import Copies
from curation.images.ids import image_id
from curation.images.imports import imported
from curation.images.samples import samples
from curation.schema import Reason
from curation.store import Store
from curation.takedown.erase import erase_image
from curation.takedown.tombstones import Tombstones, tombstones
from spark_jobs.ledger import ledger_rows
from spark_jobs.sources import list_files
from spark_jobs.stage import Context, Stage, main
from spark_jobs.steady import SteadyFile
from spark_jobs.tables import Outcome

_WORK = pa.schema([("source", pa.string()), ("names", pa.list_(pa.string()))])
_CHUNK_FILES, _CHUNK_BYTES = 256, 64 << 20  # a task's unit of work: so many small files, or one large one
_TASKS_PER_PARTITION = 100
_BATCH_ROWS = 1000
_BUFFER_BYTES = 64 << 10


def run(context: Context) -> Outcome:
    """Write ``files``, ``images`` and ``sightings``."""
    spark, store = context.spark, context.store
    fetches = store.frame(spark, schema.FETCHES).where(F.col("reason").isNull())
    imports = imported_files(context, context.config.sources.images)
    store.write(schema.FILES, _fetched(context, fetches).unionByName(imports), context.run)

    files = store.frame(spark, schema.FILES)
    _erase_refused(context, files)
    pictures = files.where(F.col("image_id").isNotNull())
    name = F.coalesce("path", "url")
    first = Window.partitionBy("image_id").orderBy(name, "shard", "offset_bytes")
    ranked = pictures.withColumn("order", F.row_number().over(first))
    store.write(schema.IMAGES, ranked.where("order = 1"), context.run)
    store.write(schema.SIGHTINGS, _sightings(context, pictures, fetches), context.run)

    is_copy = F.col("order") > 1
    decided = ranked.unionByName(files.where(F.col("image_id").isNull()), allowMissingColumns=True)
    rows = ledger_rows(
        decided,
        image_id="image_id",
        # what was never downloaded is known by the URL, as in the download stage
        url=F.when(F.col("reason") == Reason.NOT_DOWNLOADED.value, F.coalesce("url", "path")).otherwise(name),
        reason=F.when(is_copy, Reason.EXACT_DUPLICATE.value).otherwise(F.col("reason")),
        evidence=F.when(is_copy, F.col("image_id")).otherwise(F.col("detail")),
    )
    num_fetched = fetches.count()
    of_files = files.where(F.col("path").isNotNull()).agg(F.count("*"), F.sum("companions")).first()
    num_imported, companions = of_files[0], of_files[1] or 0
    counted = {"fetched": num_fetched, "imported": num_imported, "companions": companions}
    return Outcome(num_fetched + num_imported, rows, counted)


def _erase_refused(context: Context, files: DataFrame) -> None:
    """Overwrite what was refused as taken down where the store has a copy: it came before its content was known."""
    of_ours = (F.col("reason") == Reason.TAKEN_DOWN.value) & F.col("shard").startswith("store:")
    for row in files.where(of_ours).select("shard", "offset_bytes", "size_bytes").collect():
        erase_image(context.store, row["shard"], row["offset_bytes"], row["size_bytes"])


def _sightings(context: Context, pictures: DataFrame, fetches: DataFrame) -> DataFrame:
    """One row for every file and every page that links to its URL, with all signals seen."""
    links = context.store.frame(context.spark, schema.LINKS).select(
        "url",
        F.col("page_url").alias("linking_page"),
        F.col("domain").alias("linked_domain"),
        "crawl",
        F.col("rights").alias("page_rights"),
    )
    headers = fetches.select("url", F.col("rights").alias("header_rights"))
    # joined apart from what has no URL, which would all come to one task
    with_url = pictures.where(F.col("url").isNotNull())
    linked = with_url.join(headers, "url", "left").join(links.distinct(), "url", "left")
    signals = F.concat(*(F.coalesce(column, F.array()) for column in ("page_rights", "header_rights")))
    seen = linked.withColumns(
        {
            "page_url": F.coalesce("linking_page", "page_url"),
            "domain": F.coalesce("linked_domain", "domain"),
            "rights": F.array_sort(F.array_distinct(signals)),
        }
    )
    unknown = pictures.where(F.col("url").isNull()).withColumn("rights", F.array().cast("array<string>"))
    return seen.unionByName(unknown, allowMissingColumns=True)


def _fetched(context: Context, fetches: DataFrame) -> DataFrame:
    uri, kinds = context.store.uri, from_arrow_schema(schema.FILES.schema)
    taken_down = tombstones(context.store)

    def identify(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with Store(uri).shard_reader() as read:
            for batch in batches:
                rows = batch.to_pylist()
                for row in rows:
                    data = read(row["shard"], row["offset_bytes"], row["size_bytes"])
                    row["image_id"] = image_id(data) if data else None
                    row["reason"] = None if data else Reason.EMPTY_FILE.value
                    row["companions"] = 0
                rows = [taken_down.refused(row) for row in rows] if taken_down else rows
                yield pa.RecordBatch.from_pylist(rows, schema=schema.FILES.schema)

    located = fetches.select("url", "shard", "offset_bytes", "size_bytes")
    by_shard = located.repartition(context.config.runtime.partitions, "shard")
    return by_shard.sortWithinPartitions("shard", "offset_bytes").mapInArrow(identify, kinds)


def imported_files(context: Context, sources: dict[str, str]) -> DataFrame:
    """Rows of ``schema.FILES`` for the files of some sources: read where they lie, copied where they must be."""
    uri, run_id = context.store.uri, context.run.run_id
    taken_down = tombstones(context.store)

    def identify(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        rows = (
            row
            for batch in batches
            for work in batch.to_pylist()
            for row in _rows(Store(uri), run_id, work["source"], work["names"], taken_down)
        )
        while some := list(islice(rows, _BATCH_ROWS)):
            yield pa.RecordBatch.from_pylist(some, schema=schema.FILES.schema)

    chunks = pa.Table.from_pylist(list(_chunks(sources)), schema=_WORK)
    tasks = max(1, min(chunks.num_rows, _TASKS_PER_PARTITION * context.config.runtime.partitions))
    spread = context.spark.createDataFrame(chunks).coalesce(1).repartition(tasks)  # from one place: evenly
    return spread.mapInArrow(identify, from_arrow_schema(schema.FILES.schema))


def _rows(
    store: Store, run_id: str, source: str, names: list[str], taken_down: Tombstones | None
) -> Iterator[dict[str, Any]]:
    """The rows of some files; of what was taken down, a row that says so.

    Raises:
        OSError: a disk or host that fails was taken for damage.
    """
    sources = store.sources()
    opened: list[SteadyFile] = []

    def open_file(shard: str) -> BinaryIO:
        opened[:] = [SteadyFile(store.shard_uri(shard, sources))]
        return io.BufferedReader(opened[0], _BUFFER_BYTES)

    for row in imported(source, names, open_file, lambda place: Copies(store.uri, run_id, place)):
        if row["reason"] == Reason.BROKEN_FILE and opened[0].failed is not None:
            raise opened[0].failed
        yield taken_down.refused(row) if taken_down else row


def _chunks(sources: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The files of all sources in pieces of work; what goes together stays together."""
    for source, root in sorted(sources.items()):
        sizes = {file.name: file.size_bytes for file in list_files(root)}
        names: list[str] = []
        size_bytes = 0
        for group in samples(sizes):
            names += group
            size_bytes += sum(sizes[name] or 0 for name in group)
            if len(names) >= _CHUNK_FILES or size_bytes >= _CHUNK_BYTES:
                yield {"source": source, "names": names}
                names, size_bytes = [], 0
        if names:
            yield {"source": source, "names": names}


STAGE = Stage(
    name="index",
    version=2,
    after="download",
    sources=("images",),
    writes=lambda _: (schema.FILES, schema.IMAGES, schema.SIGHTINGS),
    run=run,
)

if __name__ == "__main__":
    main(STAGE)
