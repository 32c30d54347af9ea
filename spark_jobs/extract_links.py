"""Find the image links of web pages (WARC, WAT, HTML) and URL lists, and refuse those that must not be asked for.

A unit is a distinct image URL, or a file, record or link that cannot be used.
"""

from collections.abc import Iterable, Iterator
from functools import partial

import fsspec
import pyarrow as pa
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from curation import schema
from curation.links.rows import LinkRules, links_of_list, links_of_pages
from curation.schema import Reason
from spark_jobs.ledger import ledger_rows
from spark_jobs.sources import list_all
from spark_jobs.stage import Context, Stage, main
from spark_jobs.tables import Outcome

# reasons that concern a URL on whatever page it stands; any other concerns the row alone
_OF_THE_URL = [Reason.BLOCKED_DOMAIN.value, Reason.PAGE_OPTED_OUT.value]


def run(context: Context) -> Outcome:
    """Write ``links``, one row for every (page, image) pair; decide on every URL."""
    recipe, sources = context.config.recipe.extract_links, context.config.sources
    files = [("pages", f.name, f.uri) for f in list_all(sources.pages)]
    files += [("urls", f.name, f.uri) for f in list_all(sources.urls)]
    frame = context.spark.createDataFrame(files, "kind string, name string, uri string")
    rules = LinkRules(recipe.crawl, tuple(recipe.blocked_domains), tuple(recipe.opt_out_signals), recipe.agent)
    found = frame.repartition(max(1, min(len(files), context.config.runtime.partitions))).mapInArrow(
        partial(_read_files, rules=rules), from_arrow_schema(schema.LINKS.schema)
    )
    context.store.write(schema.LINKS, found, context.run)

    links = context.store.frame(context.spark, schema.LINKS)
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
    rows_in = links.where(about_url).select("url").distinct().count() + rest.count()
    counts = {
        "files": len(files),
        "pages_with_images": links.where("page_url is not null").select("page_url").distinct().count(),
        "links": links.where(about_url).count(),
    }
    every = urls.unionByName(rest)
    return Outcome(rows_in, ledger_rows(every, url="url", reason="reason", evidence="evidence"), counts)


def _read_files(batches: Iterable[pa.RecordBatch], rules: LinkRules) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for source in batch.to_pylist():
            read = links_of_pages if source["kind"] == "pages" else links_of_list
            with fsspec.open(source["uri"], "rb") as file:
                for rows in read(file, source["name"], rules):
                    yield pa.RecordBatch.from_pylist(rows, schema=schema.LINKS.schema)


STAGE = Stage(
    name="extract_links",
    version=2,
    after=None,
    sources=("pages", "urls"),
    writes=lambda _: (schema.LINKS,),
    run=run,
)

if __name__ == "__main__":
    main(STAGE)
