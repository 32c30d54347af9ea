"""Fetch the images behind the links with img2dataset, honestly and safely, into tar shards with the original bytes.

A unit is a URL. Hosts are asked for their robots.txt first, once each.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from curation import schema
from curation.fetch.options import FetchOptions
from curation.fetch.outage import SYMPTOMS, refuse_outage
from curation.fetch.permission import DECIDED, decide
from curation.fetch.robots import ask_hosts
from curation.fetch.shard import fetch_shard
from curation.schema import Table
from spark_jobs.ledger import ledger_rows
from spark_jobs.stage import Context, Stage, main
from spark_jobs.tables import Outcome


def run(context: Context) -> Outcome:
    """Write ``robots``, the shards, and ``fetches``, one row for every URL.

    Raises:
        ConnectionError: so many URLs fail for want of a connection that the network must be at fault.
    """
    recipe, runtime = context.config.recipe.download, context.config.runtime
    options = FetchOptions(**recipe.fetch.model_dump(), threads=runtime.download_threads, resolve=runtime.resolve)
    urls = context.store.kept(context.spark, "extract_links").select(
        "url", F.regexp_extract("url", r"^(https?://[^/?#]+)", 1).alias("host")
    )
    num_urls = urls.count()

    hosts = urls.select("host").distinct().repartition(runtime.partitions)
    asked = hosts if recipe.honour_robots else hosts.limit(0)
    answers = asked.mapInArrow(partial(_ask_robots, options=options), from_arrow_schema(schema.ROBOTS.schema))

    def out_of_reach(records: DataFrame) -> int:
        silent = records.where(F.col("status") == "unreachable")
        return urls.join(silent.select("host"), "host", "left_semi").count()

    _write_unless_outage(context, schema.ROBOTS, answers, out_of_reach, num_urls)

    # sorted, so that a host's robots.txt comes once, before its URLs, and never beside each of them
    robots = context.store.frame(context.spark, schema.ROBOTS)
    decided = (
        urls.unionByName(robots, allowMissingColumns=True)
        .repartition(runtime.partitions, "host")
        .sortWithinPartitions("host", F.col("url").asc_nulls_first())
        .select("host", "url", "status", "body")
        .mapInArrow(
            partial(decide, user_agent=options.user_agent, fail_closed=recipe.robots_fail_closed),
            from_arrow_schema(DECIDED),
        )
    )

    # a URL's shard follows from its hash: stable, and one host's URLs are spread over the shards
    num_shards = max(1, math.ceil(num_urls / recipe.urls_per_shard))
    folder = context.store.path("shards", context.run.run_id)

    def fetch(group: pa.Table) -> pa.Table:
        return _fetch_group(group, folder, options)

    fetched = (
        decided.withColumn("number", F.pmod(F.xxhash64("url"), F.lit(num_shards)))
        .repartition(min(num_shards, 100 * runtime.partitions), "number")
        .groupBy("number")
        .applyInArrow(fetch, from_arrow_schema(schema.FETCHES.schema))
    )

    def failed(rows: DataFrame) -> int:
        return rows.where(F.col("reason").isin([reason.value for reason in SYMPTOMS])).count()

    _write_unless_outage(context, schema.FETCHES, fetched, failed, num_urls)

    fetches = context.store.frame(context.spark, schema.FETCHES)
    bytes_fetched = fetches.agg(F.sum("size_bytes")).first()[0] or 0
    rows = ledger_rows(fetches, url="url", reason="reason", evidence="detail")
    return Outcome(num_urls, rows, {"shards": num_shards if num_urls else 0, "bytes": bytes_fetched})


def _write_unless_outage(
    context: Context, table: Table, rows: DataFrame, count_failed: Callable[[DataFrame], int], total: int
) -> None:
    """Commit what the web answered, unless it shows an outage: what is committed is not asked for again."""
    if context.store.written_by(table, context.run.run_id):
        return
    answers = rows.persist(StorageLevel.DISK_ONLY)  # counted and written, but asked for once
    try:
        refuse_outage(count_failed(answers), total, context.config.recipe.download.max_failed_share)
        context.store.write(table, answers, context.run)
    finally:
        answers.unpersist()


def _ask_robots(batches: Iterable[pa.RecordBatch], options: FetchOptions) -> Iterator[pa.RecordBatch]:
    hosts = (host for batch in batches for host in batch.column("host").to_pylist())
    for records in ask_hosts(hosts, options):
        rows = [{"host": record.host, "status": record.status, "body": record.body} for record in records]
        yield pa.RecordBatch.from_pylist(rows, schema=schema.ROBOTS.schema)


def _fetch_group(group: pa.Table, folder: str, options: FetchOptions) -> pa.Table:
    number = group.column("number")[0].as_py()
    decided = group.select(DECIDED.names).sort_by("url").to_pylist()
    allowed = [row["url"] for row in decided if row["reason"] is None]
    rows = [row for row in decided if row["reason"] is not None]
    run_id = folder.rpartition("/")[2]
    for outcome in fetch_shard(allowed, number, folder, options):
        shard = f"store:shards/{run_id}/{outcome.shard}" if outcome.reason is None else None
        rows.append(
            {
                "url": outcome.url,
                "shard": shard,
                "offset_bytes": outcome.offset_bytes,
                "size_bytes": outcome.size_bytes,
                "reason": outcome.reason,
                "detail": outcome.detail,
                "rights": outcome.rights,
            }
        )
    return pa.Table.from_pylist(rows, schema=schema.FETCHES.schema)


STAGE = Stage(
    name="download",
    version=1,
    after="extract_links",
    writes=lambda _: (schema.ROBOTS, schema.FETCHES),
    run=run,
)

if __name__ == "__main__":
    main(STAGE)
