"""Fetch the images behind the links with img2dataset, honestly and safely, into tar shards with the original bytes.

A unit is a URL. Hosts are asked for their robots.txt first, once each.
"""

import math
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import pyarrow as pa
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from curation import schema
from curation.fetch.options import FetchOptions
from curation.fetch.robots import RobotsRecord, allows, fetch_robots
from curation.fetch.shard import fetch_shard
from curation.schema import Reason
from spark_jobs.ledger import ledger_rows
from spark_jobs.stage import Context, Stage, main
from spark_jobs.tables import Outcome


def run(context: Context) -> Outcome:
    """Write ``robots``, the shards, and ``fetches``, one row for every URL."""
    recipe, runtime = context.config.recipe.download, context.config.runtime
    options = FetchOptions(**recipe.fetch.model_dump(), threads=runtime.download_threads, resolve=runtime.resolve)
    urls = context.store.kept(context.spark, "extract_links").select(
        "url", F.regexp_extract("url", r"^(https?://[^/?#]+)", 1).alias("host")
    )
    num_urls = urls.count()

    hosts = urls.select("host").distinct().repartition(runtime.partitions)
    asked = hosts if recipe.honour_robots else hosts.limit(0)
    answers = asked.mapInArrow(partial(_ask_robots, options=options), from_arrow_schema(schema.ROBOTS.schema))
    context.store.write(schema.ROBOTS, answers, context.run)

    # a URL's shard follows from its hash: stable, and one host's URLs are spread over the shards
    num_shards = max(1, math.ceil(num_urls / recipe.urls_per_shard))
    robots = context.store.frame(context.spark, schema.ROBOTS)
    folder, fail_closed = context.store.path("shards", context.run.run_id), recipe.robots_fail_closed

    def fetch(group: pa.Table) -> pa.Table:
        return _fetch_group(group, folder, options, fail_closed)

    fetched = (
        urls.withColumn("number", F.pmod(F.xxhash64("url"), F.lit(num_shards)))
        .join(robots, "host", "left")
        .repartition(min(num_shards, 100 * runtime.partitions), "number")
        .groupBy("number")
        .applyInArrow(fetch, from_arrow_schema(schema.FETCHES.schema))
    )
    context.store.write(schema.FETCHES, fetched, context.run)

    fetches = context.store.frame(context.spark, schema.FETCHES)
    bytes_fetched = fetches.agg(F.sum("size_bytes")).first()[0] or 0
    rows = ledger_rows(fetches, url="url", reason="reason", evidence="detail")
    return Outcome(num_urls, rows, {"shards": num_shards if num_urls else 0, "bytes": bytes_fetched})


def _ask_robots(batches: Iterable[pa.RecordBatch], options: FetchOptions) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        rows = []
        for host in batch.column("host").to_pylist():
            record = fetch_robots(host, options)
            rows.append({"host": host, "status": record.status, "body": record.body})
        yield pa.RecordBatch.from_pylist(rows, schema=schema.ROBOTS.schema)


def _fetch_group(group: pa.Table, folder: str, options: FetchOptions, fail_closed: bool) -> pa.Table:
    number = group.column("number")[0].as_py()
    allowed, rows = [], []
    for row in group.sort_by("url").to_pylist():
        refusal = _robots_refusal(row, options.user_agent, fail_closed)
        if refusal is None:
            allowed.append(row["url"])
        else:
            rows.append({"url": row["url"], "reason": refusal[0].value, "detail": refusal[1]})
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


def _robots_refusal(row: dict[str, Any], user_agent: str, fail_closed: bool) -> tuple[Reason, str] | None:
    """Why the answer of a URL's host to the question for its robots.txt forbids to ask further."""
    if row["status"] is None:  # robots.txt is not asked for under this recipe
        return None
    record = RobotsRecord(row["host"], row["status"], row["body"])
    if allows(record, row["url"], user_agent, fail_closed):
        return None
    match record.status:
        case "private":
            return Reason.PRIVATE_ADDRESS, record.body
        case "unreachable":
            return Reason.ROBOTS_UNREACHABLE, f"{record.host}/robots.txt: {record.body}"
    return Reason.ROBOTS_DISALLOWED, f"{record.host}/robots.txt"


STAGE = Stage(
    name="download",
    version=1,
    after="extract_links",
    writes=lambda _: (schema.ROBOTS, schema.FETCHES),
    run=run,
)

if __name__ == "__main__":
    main(STAGE)
