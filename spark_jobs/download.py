"""Fetch the images behind the links with img2dataset, honestly and safely, into tar shards with the original bytes.

A unit is a URL. Hosts are asked for their robots.txt first, once each. A redirect to another place is not followed but
asked for in a next round, like a link: under the robots.txt, the rules and the rate limit of the host it leads to.
"""

import functools
import math
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from curation import schema
from curation.fetch.guard import too_many_redirects
from curation.fetch.options import FetchOptions
from curation.fetch.outage import SYMPTOMS, refuse_outage
from curation.fetch.pieces import remove_partial
from curation.fetch.stream import ANSWERS, Asking
from curation.store import locate
from spark_jobs.block_lists import block_lists, shared
from spark_jobs.ledger import ledger_rows
from spark_jobs.stage import Context, Stage, main
from spark_jobs.tables import Outcome


def run(context: Context) -> Outcome:
    """Write ``robots``, the shards, and ``fetches``, one row for every URL.

    Raises:
        ConnectionError: so many URLs fail for want of a connection that the network must be at fault.
    """
    links = context.store.kept(context.spark, "extract_links").select("url")
    num_urls = links.count()
    web = _Web(context, num_urls)
    try:
        context.store.write(schema.FETCHES, _fetches(web, links, context), context.run)
        context.store.write(schema.ROBOTS, web.robots, context.run)
        metrics = _counted(web.answers)
    finally:
        web.forget()
    remove_partial(web.folder)
    rows = ledger_rows(
        context.store.frame(context.spark, schema.FETCHES), url="url", reason="reason", evidence="detail"
    )
    return Outcome(num_urls, rows, metrics)


class _Web:
    """What was asked so far, and what it answered.

    Attributes:
        robots: ``schema.ROBOTS`` rows of all hosts.
        answers: ``ANSWERS`` rows of all URLs.
    """

    def __init__(self, context: Context, num_urls: int) -> None:
        self._context = context
        self._num_urls = num_urls
        self._round = 0
        self._blocked = shared(context.spark, block_lists(context.config, context.store))
        self._kept: list[DataFrame] = []
        self.folder = context.store.path("shards", context.run.run_id)
        # without the limit, Spark would not see that they are empty
        self.robots = context.spark.createDataFrame([], from_arrow_schema(schema.ROBOTS.schema)).limit(0)
        self.answers = context.spark.createDataFrame([], from_arrow_schema(ANSWERS)).limit(0)

    def ask(self, urls: DataFrame) -> DataFrame:
        """Ask for URLs that were not asked before, and give their answers.

        What lands stays in the run's folder, so that a lost executor, or a killed run, costs no second request.

        Raises:
            ConnectionError: an outage; what landed is forgotten, since it is in doubt.
        """
        urls = self.keep(urls)
        num_urls = urls.count()
        if num_urls == 0:
            return self.answers
        recipe, runtime = self._context.config.recipe.download, self._context.config.runtime
        num_lanes = math.ceil(num_urls / recipe.urls_per_shard)
        num_tasks = min(num_lanes, 100 * runtime.partitions)
        asking = Asking(
            self.folder,
            self._round,
            recipe.urls_per_shard,
            FetchOptions(**recipe.fetch.model_dump(), threads=runtime.download_threads, resolve=runtime.resolve),
            self._blocked,
            recipe.robots_fail_closed,
        )
        self._round += 1
        located = urls.withColumn("host", F.regexp_extract("url", r"^(https?://[^/?#]+)", 1))
        hosts = located.select("host").distinct()
        name = F.regexp_extract("host", r"^https?://(\[[^\]]*\]|[^:]*)", 1)  # a task has all schemes and ports of it
        if recipe.honour_robots:
            fresh = hosts.join(self.robots, "host", "left_anti")
            buckets = fresh.withColumn("name", name).withColumn("bucket", _hashed("name", num_lanes)).drop("name")
            bucketed = _spread(buckets, num_tasks, "bucket", "host")
            rules = bucketed.mapInArrow(asking.hosts, from_arrow_schema(schema.ROBOTS.schema))
            self.robots = self.robots.unionByName(self.keep(rules))
        # sorted, so that a host's robots.txt comes once, before its URLs, and never beside each of them
        rows = located.unionByName(self.robots.join(hosts, "host", "left_semi"), allowMissingColumns=True)
        lanes = rows.withColumn("name", name).withColumn("lane", _hashed("name", num_lanes)).drop("name")
        sorted_lanes = _spread(lanes, num_tasks, "lane", "host", F.col("url").asc_nulls_first())
        answers = self.keep(sorted_lanes.mapInArrow(asking.urls, from_arrow_schema(ANSWERS)))
        failed = answers.where(F.col("reason").isin([reason.value for reason in SYMPTOMS])).count()
        try:
            refuse_outage(failed, self._num_urls, recipe.max_failed_share)
        except ConnectionError:
            filesystem, root = locate(self.folder)
            filesystem.rm(root, recursive=True)
            raise
        self.answers = self.answers.unionByName(answers)
        return answers

    def forget(self) -> None:
        """Free what Spark holds."""
        for frame in self._kept:
            frame.unpersist()

    def keep(self, frame: DataFrame) -> DataFrame:
        """Hold what is computed once and used more often, until :meth:`forget`."""
        self._kept.append(frame.persist(StorageLevel.DISK_ONLY))
        return frame


def _fetches(web: _Web, links: DataFrame, context: Context) -> DataFrame:
    """Ask for the links, then round by round for what they redirect to, and say of each link where that ended."""
    most = context.config.recipe.download.fetch.max_redirects
    goes_on = F.col("has_moved") & (F.col("num_redirects") <= most)
    step = web.ask(links)
    ends = [step.where(~goes_on)]
    while (open_ends := step.where(goes_on)).count() > 0:
        leads = open_ends.select("url", F.col("final_url").alias("target"), "num_redirects")
        web.ask(leads.select(F.col("target").alias("url")).distinct().join(web.answers, "url", "left_anti"))
        found = web.answers.withColumnsRenamed({"url": "target", "num_redirects": "further"})
        total = (F.col("num_redirects") + F.col("further")).alias("num_redirects")
        joined = leads.join(found, "target").select(total, *(c for c in ANSWERS.names if c != "num_redirects"))
        step = web.keep(joined)
        ends.append(step.where(~goes_on))
    fetches = functools.reduce(DataFrame.unionByName, ends)
    is_endless = F.col("num_redirects") > most
    endless = too_many_redirects(most)
    is_success = F.col("reason").isNull() & ~is_endless
    folder = f"store:shards/{context.run.run_id}/"
    return fetches.withColumns(
        {
            "shard": F.when(is_success, F.concat(F.lit(folder), "shard")),
            "final_url": F.when(is_success, F.col("final_url")),
            "offset_bytes": F.when(is_success, F.col("offset_bytes")),
            "size_bytes": F.when(is_success, F.col("size_bytes")),
            "reason": F.when(is_endless, endless.reason.value).otherwise(F.col("reason")),
            "detail": F.when(is_endless, endless.message).otherwise(F.col("detail")),
        }
    )


def _counted(answers: DataFrame) -> dict[str, Any]:
    """Figures of the stage: what was asked for in all, and how often each class of failure came back."""
    (row,) = answers.agg(
        F.count("url").alias("asked"),
        F.sum(F.col("has_moved").cast("int")).alias("moved"),
        F.countDistinct("shard").alias("shards"),
        F.sum("size_bytes").alias("bytes"),
    ).collect()
    # every detail of an http_error that names a status is one of a thousand; the others hold addresses
    status = F.when(F.col("detail").rlike("^status [0-9]{3}$"), F.concat(F.lit(": "), "detail")).otherwise("")
    classes = answers.where("reason is not null").groupBy(F.concat("reason", status).alias("name")).count().collect()
    return {key: n or 0 for key, n in row.asDict().items()} | {"failures": {c["name"]: c["count"] for c in classes}}


def _hashed(column: str, num_values: int) -> Column:
    return F.pmod(F.xxhash64(column), F.lit(num_values))


def _spread(rows: DataFrame, num_tasks: int, group: str, *order: Column | str) -> DataFrame:
    """Whole groups in each task, in an order that does not depend on the number of tasks."""
    return rows.repartition(num_tasks, group).sortWithinPartitions(group, *order)


STAGE = Stage(
    name="download",
    version=3,
    after="extract_links",
    writes=lambda _: (schema.ROBOTS, schema.FETCHES),
    run=run,
)

if __name__ == "__main__":
    main(STAGE)
