"""The pool's nearest images of every query image: shards that Spark tasks write and search, and one merge.

A task holds one shard of the pool and one of the queries, both mapped into memory, so neither the driver nor a worker
ever has all vectors. Exact search and that by lists give the same for any shards; an IVF-PQ takes
its candidates from each shard, so how large shards are belongs to the recipe.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from curation import schema
from curation.neighbours.product_codes import Codebook
from curation.neighbours.quantiser import Quantiser
from curation.neighbours.search import Shard, read_shard, search_shards
from curation.schema import POOL
from curation.selection.retrieval import sample_based
from spark_jobs import vectors
from spark_jobs.config import Search
from spark_jobs.sampling import sample
from spark_jobs.stage import Context

_QUERIES = 16_384  # of a task, on average; results do not depend on it
_FOUND = pa.schema([("query_id", pa.string()), ("image_id", pa.string()), ("similarity", pa.float32())])


def search_pool(context: Context, kept: DataFrame, wanted: Mapping[str, int]) -> dict[str, pa.Table]:
    """Search the kept images of the pool for every image of some query sets.

    Args:
        context: of the stage.
        kept: column image_id, the pool as it is now.
        wanted: neighbours a query, by query set.

    Returns:
        by query set, rows as in ``curation.schema.RETRIEVALS``.

    Raises:
        ValueError: the pool is too small for the lists or codes that the recipe wants.
    """
    recipe, store, spark = context.config.recipe.retrieve, context.store, context.spark
    partitions, search = context.config.runtime.partitions, recipe.search
    folder = Path(store.path("indexes", context.run.run_id)).absolute()
    shutil.rmtree(folder, ignore_errors=True)
    embedded = vectors.frame_of(store, spark, recipe.model)
    pool = embedded.join(kept.select("image_id"), "image_id", "left_semi")
    trained = _trained(pool, search, recipe.seed)
    shards = vectors.write_shards(pool, folder / POOL, search.shard_images, partitions, trained)
    members = store.frame(spark, schema.COLLECTIONS)
    found = {}
    for name, k in wanted.items():
        queries = embedded.join(members.where(F.col("collection") == name), "image_id", "left_semi")
        asked = vectors.write_shards(queries, folder / name, _QUERIES, partitions)
        pairs = spark.createDataFrame(
            [(str(shard), str(queries)) for shard in shards for queries in asked], "shard string, queries string"
        )
        task = _task(trained, k, search)
        best = Window.partitionBy("query_id").orderBy(F.col("similarity").desc(), "image_id")
        # a task's pairs follow each other by shard, so that it opens few
        spread = pairs.repartitionByRange(partitions, "shard", "queries").sortWithinPartitions("shard", "queries")
        each = spread.mapInArrow(task, from_arrow_schema(_FOUND))
        merged = each.withColumn("rank", F.row_number().over(best)).where(F.col("rank") <= k)
        rows = merged.toArrow().sort_by([("query_id", "ascending"), ("rank", "ascending")])
        columns = (rows[column] for column in ("query_id", "image_id", "rank", "similarity"))
        found[name] = sample_based(name, *columns)
    shutil.rmtree(folder, ignore_errors=True)
    return found


def _trained(pool: DataFrame, search: Search, seed: int) -> Quantiser | Codebook | None:
    """Trained on the images that come first by id, which is a random sample; None for exact search."""
    if search.method == "flat":
        return None
    rows = sample(pool, search.sample)
    training = vectors.matrix([row["vector"] for row in rows]).copy()  # torch wants to be able to write
    if search.method == "ivf":
        return Quantiser.train(training, search.num_lists, seed)
    return Codebook.train(training, search.num_lists, search.code_bytes, seed)


def _task(trained: Quantiser | Codebook | None, k: int, search: Search):  # noqa: ANN202  (Spark reads the inner ones)
    def task(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        opened: tuple[str, Shard] | None = None
        for batch in batches:
            for row in batch.to_pylist():
                if opened is None or opened[0] != row["shard"]:
                    opened = row["shard"], read_shard(Path(row["shard"]), trained)
                queries = read_shard(Path(row["queries"]))
                found = search_shards([opened[1]], np.asarray(queries.vectors), k, search.num_probes, search.over_fetch)
                columns = [
                    pa.array(queries.ids[found.query].astype(np.str_), pa.string()),
                    pa.array(found.ids.astype(np.str_), pa.string()),
                    pa.array(found.similarity, pa.float32()),
                ]
                yield pa.RecordBatch.from_arrays(columns, schema=_FOUND)

    return task
