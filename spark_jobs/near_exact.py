"""Near-exact copies by PCA hash: the projection is fitted and kept in the store, pictures of one hash are looked at."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from curation.images import pca_hash
from curation.images.pca_hash import PcaHash
from curation.images.screening import screen
from curation.store import Store, locate, open_uri
from curation.whole_files import put_whole
from spark_jobs.config import FrozenFile
from spark_jobs.stage import Context

BLOCK = 1024  # pictures of one hash that one task compares with each other
LEADERS = 16  # of the pictures of one hash, the first to be kept; they are compared with all others

_THUMBNAIL = pa.schema([("thumbnail", pa.binary())])
_COPIES = pa.schema([("image_id", pa.string()), ("kept_id", pa.string()), ("distance", pa.float64())])


def projection(context: Context, images: DataFrame) -> PcaHash:
    """The recipe's projection, or one fitted on the images that come first by id, which are a random sample.

    Either is kept in the store as ``models/pca_hash-<digest>.bin``, for another crawl to be hashed alike.

    Raises:
        ValueError: the recipe's file has another hash, or is no projection.
        OSError: it cannot be read.
    """
    given = context.config.recipe.screen.pca_hash
    hasher = _fitted(context, images) if given is None else _read(given)
    filesystem, path = locate(context.store.path("models", f"pca_hash-{hasher.digest}.bin"))
    if not filesystem.exists(path):
        put_whole(filesystem, path, hasher.to_bytes())
    return hasher


def verified_copies(context: Context, screened: DataFrame) -> DataFrame:
    """(image_id, kept_id, distance) of images with another's hash and, looked at again, its picture too.

    A hash that very many pictures share is looked at in blocks, each beside the group's leaders, so that no task has
    more than ``BLOCK + LEADERS`` pictures. A copy of a picture that is neither in its block nor a leader is not found
    here; the copy descriptor will see it.
    """
    uri, rules = context.store.uri, context.config.recipe.screen

    def verify(group: pa.Table) -> pa.Table:
        rows = group.sort_by([("order", "ascending")]).to_pylist()
        pictures = {}
        with Store(uri).shard_reader() as read:
            for row in sorted(rows, key=place):
                pictures[row["image_id"]] = screen(read(*place(row)), rules).thumbnail
        found = [
            {"image_id": rows[copy]["image_id"], "kept_id": rows[kept]["image_id"], "distance": distance}
            for copy, kept, distance in pca_hash.copies(np.stack([pictures[row["image_id"]] for row in rows]))
            if rows[copy]["is_own"]
        ]
        return pa.Table.from_pylist(found, schema=_COPIES)

    # the representative key: the largest short side, then the least compressed, then the lowest id
    short_side = F.least("width", "height")
    bytes_per_pixel = F.col("size_bytes") / (F.col("width").cast("double") * F.col("height"))
    alike = Window.partitionBy("pca_hash")
    order = F.row_number().over(alike.orderBy(short_side.desc(), bytes_per_pixel.desc(), "image_id")) - 1
    hashed = screened.where("reason is null and pca_hash is not null").withColumn("order", order)
    several = hashed.withColumn("alike", F.count("image_id").over(alike)).where("alike > 1")
    own = F.floor(F.col("order") / BLOCK)
    last = F.floor((F.col("alike") - 1) / BLOCK)
    blocks = F.when(F.col("order") < LEADERS, F.sequence(F.lit(0).cast("long"), last)).otherwise(F.array(own))
    placed = several.withColumn("block", F.explode(blocks)).withColumn("is_own", F.col("block") == own)
    return placed.groupBy("pca_hash", "block").applyInArrow(verify, from_arrow_schema(_COPIES))


def place(row: dict[str, Any]) -> tuple[str, int, int]:
    """Where the bytes of an image lie."""
    return row["shard"], row["offset_bytes"], row["size_bytes"]


def _fitted(context: Context, images: DataFrame) -> PcaHash:
    rules, uri = context.config.recipe.screen, context.store.uri

    def thumbnails(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with Store(uri).shard_reader() as read:
            for batch in batches:
                looked_at = (screen(read(*place(row)), rules) for row in batch.to_pylist())
                fit = [s.thumbnail.tobytes() for s in looked_at if s.thumbnail is not None and s.refusal is None]
                yield pa.RecordBatch.from_arrays([pa.array(fit, pa.binary())], schema=_THUMBNAIL)

    sample = images.orderBy("image_id").limit(rules.pca_hash_sample)
    spread = sample.repartitionByRange(context.config.runtime.partitions, "image_id")
    rows = spread.sortWithinPartitions("image_id").mapInArrow(thumbnails, from_arrow_schema(_THUMBNAIL)).collect()
    shape = (-1, pca_hash.SIDE, pca_hash.SIDE, 3)
    return pca_hash.fit(np.frombuffer(b"".join(row["thumbnail"] for row in rows), np.uint8).reshape(shape))


def _read(given: FrozenFile) -> PcaHash:
    with open_uri(given.path) as file:
        data = file.read()
    digest = hashlib.sha256(data).hexdigest()
    if digest != given.sha256:
        raise ValueError(f"recipe.screen.pca_hash.path={given.path}: its SHA-256 is {digest}, not {given.sha256}")
    return PcaHash.from_bytes(data)
