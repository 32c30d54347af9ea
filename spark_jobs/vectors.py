"""Embedding tables as arrays, and as shards that every executor can map into memory."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from curation import schema
from curation.neighbours.product_codes import Codebook
from curation.neighbours.quantiser import Quantiser
from curation.neighbours.search import write_shard
from curation.schema import POOL
from curation.store import Store
from spark_jobs.tables import Tables


@dataclass(frozen=True)
class Vectors:
    """Images and their vectors, by ascending id: ``ids`` [n] str, ``vectors`` [n, d] float16."""

    ids: np.ndarray
    vectors: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def float32(self) -> np.ndarray:
        """[n, d] float32."""
        return self.vectors.astype(np.float32)


def load(store: Store, model: str, collection: str, ids: pa.Array | None = None) -> Vectors:
    """The vectors of one collection by the current model of a name, each image once.

    Args:
        store: embedded.
        model: a name of ``recipe.embed.models``.
        collection: a set's name, or "pool".
        ids: of the pool: those wanted, since its vectors stay when an image leaves it.
    """
    if collection != POOL:
        members = store.table("collections", columns=["image_id"], filter=pc.field("collection") == collection)
        ids = pc.unique(members["image_id"])
    assert ids is not None, "the table holds vectors of images that are no longer in the pool"
    digest = store.runs()["embed"].metrics[model]["digest"]
    wanted = (pc.field("model") == digest) & pc.field("vector").is_valid() & pc.field("image_id").isin(ids)
    table = store.table(f"embeddings_{model}", columns=["image_id", "vector"], filter=wanted).sort_by("image_id")
    names = np.asarray(table["image_id"].to_pylist(), dtype=np.str_)
    flat = np.frombuffer(b"".join(table["vector"].to_pylist()), "<f2")
    return Vectors(names, flat.reshape(len(names), -1) if len(names) else np.empty((0, 1), "<f2"))


def ids_of(frame: DataFrame) -> pa.Array:
    """The ``image_id`` column of a frame, collected."""
    return pa.array([row["image_id"] for row in frame.select("image_id").collect()], pa.string())


def frame_of(store: Tables, spark: SparkSession, model: str) -> DataFrame:
    """The (image_id, vector) of every image ever embedded, in a set or not, by the current model of a name."""
    digest = store.runs()["embed"].metrics[model]["digest"]
    rows = store.frame(spark, schema.embeddings(model)).where((F.col("model") == digest) & F.col("vector").isNotNull())
    return rows.select("image_id", "vector")


def as_float32(value: float) -> Column:
    """A literal as float32 would have it, to be compared with a column of those."""
    return F.lit(float(np.float32(value)))


def write_shards(
    frame: DataFrame,
    folder: Path,
    shard_images: int,
    partitions: int,
    trained: Quantiser | Codebook | None = None,
) -> list[Path]:
    """Write the vectors of a frame as shards that executors search; an image's shard follows from its id.

    Args:
        frame: columns image_id and vector.
        folder: that all executors see.
        shard_images: of a shard, on average.
        partitions: tasks at once.
        trained: quantiser of the lists or codebook of the codes in every shard; None for exact search.

    Returns:
        the shards' folders.
    """
    number = F.pmod(F.xxhash64("image_id"), F.lit(max(1, math.ceil(frame.count() / shard_images))))

    def write(group: pa.Table) -> pa.Table:
        ordered = group.sort_by("image_id")
        path = folder / f"{group['shard'][0].as_py():06}"
        found = matrix(ordered["vector"].to_pylist())
        write_shard(path, ordered["image_id"].to_pylist(), found, trained)
        return pa.table({"path": [str(path)]})

    numbered = frame.withColumn("shard", number).repartition(partitions, "shard")
    written = numbered.groupBy("shard").applyInArrow(write, "path string").collect()
    return sorted(Path(row["path"]) for row in written)


def matrix(rows: Sequence[bytes], dtype: str = "<f2") -> np.ndarray:
    """[n, d] of n rows of one size, as the tables hold them: of vectors, unless another ``dtype`` is told."""
    return np.frombuffer(b"".join(rows), dtype).reshape(len(rows), -1)
