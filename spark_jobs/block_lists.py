"""The rules of a configuration, read on the driver and handed to each worker once."""

from pyspark.sql import SparkSession

from curation.fetch.permission import Blocked
from curation.links.rules import BLOCKED_DOMAINS, BlockLists, read_rules
from curation.schema import Reason
from curation.store import Store
from curation.takedown.tombstones import tombstones
from spark_jobs.config import CurationConfig
from spark_jobs.sources import read_lines


def block_lists(config: CurationConfig, store: Store) -> BlockLists:
    """What was taken down in the store, the rules that stand in the recipe, then the lists by name.

    Raises:
        ValueError: a list is not there, or is none; the key of the takedowns is gone.
    """
    named = [read_rules(read_lines(uri), name) for name, uri in sorted(config.sources.lists.items())]
    own = read_rules(config.recipe.extract_links.blocked_domains, BLOCKED_DOMAINS)
    return BlockLists((own, *named), tombstones(store))


def shared(spark: SparkSession, lists: BlockLists) -> Blocked:
    """``lists.refusing`` for use in tasks: a million rules are not made part of each."""
    broadcast = spark.sparkContext.broadcast(lists)

    def refusing(url: str) -> tuple[Reason, str] | None:
        refused: tuple[Reason, str] | None = broadcast.value.refusing(url)
        return refused

    return refusing
