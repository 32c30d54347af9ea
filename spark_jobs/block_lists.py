"""The rules of a configuration, read on the driver and handed to each worker once."""

from pyspark.sql import SparkSession

from curation.fetch.permission import Blocked
from curation.links.rules import BLOCKED_DOMAINS, BlockLists, read_rules
from curation.schema import Reason
from spark_jobs.config import CurationConfig
from spark_jobs.sources import read_lines


def block_lists(config: CurationConfig) -> BlockLists:
    """The rules that stand in the recipe, then the lists by name.

    Raises:
        ValueError: a list is not there, or is none.
    """
    named = [read_rules(read_lines(uri), name) for name, uri in sorted(config.sources.lists.items())]
    return BlockLists((read_rules(config.recipe.extract_links.blocked_domains, BLOCKED_DOMAINS), *named))


def shared(spark: SparkSession, lists: BlockLists) -> Blocked:
    """``lists.refusing`` for use in tasks: a million rules are not made part of each."""
    broadcast = spark.sparkContext.broadcast(lists)

    def refusing(url: str) -> tuple[Reason, str] | None:
        refused: tuple[Reason, str] | None = broadcast.value.refusing(url)
        return refused

    return refusing
