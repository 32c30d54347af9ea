"""Which images belong to one component: by union-find on the driver, or by Spark for graphs past one machine."""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs
import pyarrow.parquet as pq
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from curation.neighbours.components import UnionFind, forests
from curation.store import locate
from spark_jobs.scratch import Scratch

_PARTITION_BITS = 33  # of monotonically_increasing_id: the partition above, the row in it below
_LABELS_A_GROUP = 2**20


def local(edges: DataFrame, scratch: Scratch) -> DataFrame:
    """Components (image_id, label) of the graph of edges (lower_id, higher_id), found on the driver.

    Only images that have an edge are numbered. Tasks reduce their edges to forests side by side; what is left streams
    past the driver as pairs of numbers, of which 4 bytes an image stay.
    """
    spark = edges.sparkSession
    ends = edges.select(F.explode(F.array("lower_id", "higher_id")).alias("image_id")).distinct()
    nodes = scratch.keep("nodes", ends.withColumn("place", F.monotonically_increasing_id()))
    partition = F.shiftright("place", _PARTITION_BITS)
    sizes = {row["p"]: row["count"] for row in nodes.groupBy(partition.alias("p")).count().collect()}
    starts = dict(zip(sorted(sizes), np.cumsum([0, *(sizes[p] for p in sorted(sizes))]).tolist(), strict=False))
    table = spark.createDataFrame(list(starts.items()), "p long, start long")
    row = F.col("place").bitwiseAND((1 << _PARTITION_BITS) - 1)
    numbered = nodes.join(F.broadcast(table), partition == table["p"])
    numbered = numbered.select("image_id", (row + F.col("start")).alias("node"))
    pairs = edges.select("lower_id", "higher_id")
    for end, name in (("lower_id", "a"), ("higher_id", "b")):
        pairs = pairs.join(numbered.select(F.col("image_id").alias(end), F.col("node").alias(name)), end)
    scratch.keep("pairs", pairs.select("a", "b").mapInArrow(forests_of, "a long, b long"))

    sets = UnionFind(sum(sizes.values()))
    for batch in _stream(scratch.path("pairs")):
        sets.add(_numbers(batch))
    _write(scratch.path("labels"), sets.components())
    labels = spark.read.schema("node long, label long").parquet(scratch.path("labels"))
    return numbered.join(labels, "node").select("image_id", F.col("label").cast("string"))


def forests_of(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """What a task keeps of its pairs (a, b): at most one for each node that it met."""
    for forest in forests(_numbers(batch) for batch in batches):
        yield pa.RecordBatch.from_arrays([pa.array(forest[:, end].astype(np.int64)) for end in (0, 1)], ["a", "b"])


def _numbers(batch: pa.RecordBatch) -> np.ndarray:
    return np.stack([batch.column(end).to_numpy() for end in ("a", "b")], axis=1)


def _stream(path: str) -> Iterator[pa.RecordBatch]:
    """The rows of a folder of Parquet files, a batch at a time."""
    if "://" in path:
        filesystem, path = pa.fs.FileSystem.from_uri(path)
    else:
        filesystem = pa.fs.LocalFileSystem()
    yield from ds.dataset(path, filesystem=filesystem, format="parquet").to_batches()


def _write(path: str, labels: np.ndarray) -> None:
    filesystem, folder = locate(path)
    filesystem.makedirs(folder, exist_ok=True)
    columns = pa.schema([("node", pa.int64()), ("label", pa.int64())])
    with filesystem.open(f"{folder}/labels.parquet", "wb") as file, pq.ParquetWriter(file, columns) as writer:
        for start in range(0, len(labels), _LABELS_A_GROUP):
            part = labels[start : start + _LABELS_A_GROUP].astype(np.int64)
            writer.write_table(pa.table([np.arange(start, start + len(part)), part], schema=columns))
