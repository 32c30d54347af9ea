"""Find the image links of web pages (WARC, WAT, HTML) and URL lists, and refuse those that must not be asked for.

A unit is a distinct image URL, or a file, record or link that cannot be used. A file that is missing is such a unit; a
host that does not answer fails the stage, which starts again where it was called again.
"""

import io
from collections.abc import Iterable, Iterator

import pyarrow as pa
from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from curation import schema
from curation.links.rows import LinkRules, link_of_missing_file, links_of_list, links_of_pages
from curation.links.rules import BLOCKED
from curation.schema import Reason
from spark_jobs.block_lists import block_lists
from spark_jobs.config import CurationConfig
from spark_jobs.ledger import ledger_rows
from spark_jobs.sources import in_tasks, list_all, require_some
from spark_jobs.stage import Context, Stage, main
from spark_jobs.steady import SteadyFile
from spark_jobs.tables import Outcome

# reasons that concern a URL on whatever page it stands; any other concerns the row alone
_OF_THE_URL = [reason.value for reason in (*BLOCKED, Reason.PAGE_OPTED_OUT, Reason.TAKEN_DOWN)]

_Task = list[tuple[str, str, str]]  # kind, name and URI of each file


def run(context: Context) -> Outcome:
    """Write ``links``, one row for every (page, image) pair; decide on every URL.

    Raises:
        ValueError: a list of rules cannot be read, or nothing is there of what a list of paths names.
        OSError: a file could not be read to its end, for a reason that may pass.
    """
    spark, store = context.spark, context.store
    link_rules, tasks = _rules(context), _tasks(context.config)
    # one partition a task, without a shuffle; the rules, a million of them perhaps, reach each worker once
    shared = spark.sparkContext.broadcast((link_rules, tasks))

    def read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        given, all_tasks = shared.value
        for batch in batches:
            for number in batch.column(0).to_pylist():
                for source in all_tasks[number]:
                    yield from _read_file(*source, given)

    numbers = spark.range(0, len(tasks), 1, max(1, len(tasks)))
    store.write(schema.LINKS, numbers.mapInArrow(read, from_arrow_schema(schema.LINKS.schema)), context.run)

    links = store.frame(spark, schema.LINKS)
    about_url = F.col("reason").isNull() | F.col("reason").isin(_OF_THE_URL)
    evidence = F.concat_ws(" on ", "refused.detail", "refused.page_url")
    refused = F.struct("reason", "detail", "page_url")
    urls = (
        links.where(about_url)
        .groupBy("url")
        .agg(F.min(F.when(F.col("reason").isNotNull(), refused)).alias("refused"))
        .select("url", "refused.reason", F.when(F.col("refused").isNotNull(), evidence).alias("evidence"))
    )
    rest = links.where(~about_url).select("url", "reason", F.col("detail").alias("evidence"))
    counts = links.agg(
        F.count_distinct(F.when(about_url, F.col("url"))).alias("urls"),
        _num_rows(about_url).alias("links"),
        _num_rows(~about_url).alias("rest"),
        F.count_distinct("page_url").alias("pages_with_images"),
    ).first()
    blocked = link_rules.blocked.lists
    metrics = {
        "files": sum(map(len, tasks)),
        "pages_with_images": counts["pages_with_images"],
        "links": counts["links"],
        "rules": {found.name: len(found) for found in blocked},
        "unreadable_rules": {found.name: found.num_unreadable for found in blocked},
    }
    every = ledger_rows(urls.unionByName(rest), url="url", reason="reason", evidence="evidence")
    return Outcome(counts["urls"] + counts["rest"], every, metrics)


def _rules(context: Context) -> LinkRules:
    recipe, blocked = context.config.recipe.extract_links, block_lists(context.config, context.store)
    return LinkRules(recipe.crawl, blocked, tuple(recipe.opt_out_signals), recipe.agent)


def _tasks(config: CurationConfig) -> list[_Task]:
    sources, tasks = config.sources, []
    for kind, roots in (("pages", sources.pages), ("urls", sources.urls)):
        files = list_all(roots, sources.paths_root)
        require_some(files)
        tasks += [[(kind, f.name, f.uri) for f in task] for task in in_tasks(files, config.runtime.partitions)]
    return tasks


def _read_file(kind: str, name: str, uri: str, link_rules: LinkRules) -> Iterator[pa.RecordBatch]:
    try:
        source = SteadyFile(uri)
    except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError) as error:
        yield link_of_missing_file(name, str(error.strerror), link_rules)
        return
    with io.BufferedReader(source, 1 << 20) as file:
        yield from (links_of_pages if kind == "pages" else links_of_list)(file, name, link_rules)
    if source.failed is not None:  # which a parser may have reported as a broken record
        raise source.failed


def _num_rows(condition: Column) -> Column:
    return F.count(F.when(condition, F.lit(1)))


STAGE = Stage(
    name="extract_links",
    version=4,
    after=None,
    sources=("pages", "urls", "lists"),
    writes=lambda _: (schema.LINKS,),
    run=run,
)

if __name__ == "__main__":
    main(STAGE)
