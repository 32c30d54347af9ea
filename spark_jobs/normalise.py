"""Score normalisation of edges, where the recipe wants it: pictures that resemble everything make no copies."""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from curation.neighbours import normalise
from spark_jobs import vectors
from spark_jobs.config import Normalise

_BIAS = pa.schema([("image_id", pa.string()), ("bias", pa.float32())])


def that_stand_out(
    edges: DataFrame, embedded: DataFrame, background: np.ndarray, settings: Normalise, threshold: float
) -> DataFrame:
    """The edges that are above the threshold also after normalisation; their similarity stays what it is.

    Biases are never negative, so edges that were joined at the threshold are all that can pass.

    Args:
        edges: columns lower_id, higher_id, similarity.
        embedded: columns image_id and vector, of all these images.
        background: [b, d] float16 vectors of pictures that are no copies of those.
        settings: of the recipe.
        threshold: for the similarity less half of both images' biases.

    Raises:
        ValueError: the background is smaller than the neighbours asked for.
    """
    if len(background) < settings.num_neighbours:
        raise ValueError(
            f"recipe.dedup.normalise.background names {settings.background!r}, which holds {len(background)} embedded "
            f"images, fewer than num_neighbours={settings.num_neighbours}; add to it or name another"
        )

    def biases(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if batch.num_rows:
                found = vectors.matrix(batch.column("vector").to_pylist())
                bias = normalise.bias(found, background, settings.num_neighbours, settings.weight)
                ids = batch.column("image_id").cast(pa.string())
                yield pa.RecordBatch.from_arrays([ids, pa.array(bias, pa.float32())], schema=_BIAS)

    ends = edges.select(F.col("lower_id").alias("image_id")).union(edges.select("higher_id")).distinct()
    bias = embedded.join(ends, "image_id", "left_semi").mapInArrow(biases, from_arrow_schema(_BIAS))
    rest = F.col("similarity") - (F.col("lower_bias") + F.col("higher_bias")) / 2
    for end in ("lower", "higher"):
        of_end = bias.withColumnsRenamed({"image_id": f"{end}_id", "bias": f"{end}_bias"})
        edges = edges.join(of_end, f"{end}_id")
    return edges.where(rest > vectors.as_float32(threshold)).drop("lower_bias", "higher_bias")
