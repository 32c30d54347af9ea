"""Drop near-duplicates within the pool, then whatever resembles an evaluation set (DINOv2 paper, section 3).

A unit is an embedded image. Executors search slices of the pool in one FAISS index; edges go to a table; components
are found by union of lowest ids, and each keeps its best image.
"""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from curation import schema
from curation.neighbours import duplicates, knn, relative
from curation.schema import POOL, Reason
from spark_jobs import vectors
from spark_jobs.config import Dedup
from spark_jobs.ledger import ledger_rows
from spark_jobs.stage import Context, Stage, main
from spark_jobs.tables import Outcome

_DROPPED = "image_id string, reason string, evidence string, score double, threshold double"


def run(context: Context) -> Outcome:
    """Write ``edges`` and ``components``; decide on every embedded image."""
    spark, store, recipe = context.spark, context.store, context.config.recipe.dedup
    embedded = vectors.ids_of(store.kept(spark, "embed"))
    pool = vectors.load(store, recipe.model, POOL, embedded)
    references = {name: vectors.load(store, recipe.model, name) for name in recipe.against}
    for name, found in references.items():
        if not len(found):
            raise ValueError(
                f"recipe.dedup.against names {name!r}, which holds no image; add sources.collections.{name}"
            )

    _write_edges(context, pool, references)
    node = {name: i for i, name in enumerate(pool.ids)}
    edges, similarities = _edges(context, POOL, node, node)
    ranks = _preference(context, pool.ids)
    components = duplicates.resolve(pool.ids, edges, similarities, ranks)
    store.write(schema.COMPONENTS, components, context.run)

    dropped = {
        row["image_id"]: (Reason.NEAR_DUPLICATE.value, row["witness"], row["similarity"], recipe.threshold)
        for row in components.to_pylist()
        if row["image_id"] != row["representative"]
    }
    for name, found in references.items():  # an evaluation copy is one whatever else it is
        for row in _relative(context, name, node, found, edges, similarities).to_pylist():
            # without a direct edge the similarity is another image's, which the edges tell
            direct = (row["similarity"], recipe.reference_threshold) if row["via"] is None else (None, None)
            dropped[row["image_id"]] = (Reason.EVALUATION_COPY.value, row["reference"], *direct)

    every = spark.createDataFrame([(name,) for name in pool.ids.tolist()], "image_id string")
    reasons = spark.createDataFrame([(i, *why) for i, why in dropped.items()], _DROPPED)
    model = context.store.runs()["embed"].metrics[recipe.model]["digest"]
    rows = ledger_rows(
        every.join(reasons, "image_id", "left"),
        image_id="image_id",
        reason="reason",
        evidence="evidence",
        score="score",
        threshold="threshold",
        model=F.lit(model),
    )
    sizes = components.group_by("component").aggregate([("image_id", "count")])["image_id_count"].to_pylist()
    histogram = {str(size): sizes.count(size) for size in sorted(set(sizes))}
    metrics = {"edges": len(edges), "component_sizes": histogram}
    return Outcome(len(embedded), rows, metrics)


def _write_edges(context: Context, pool: vectors.Vectors, references: dict[str, vectors.Vectors]) -> None:
    """Search every slice of the pool in the pool and in each reference set; write the pairs above the thresholds."""
    recipe, spark = context.config.recipe.dedup, context.spark
    folder = Path(context.store.path("indexes", context.run.run_id)).absolute()
    vectors.publish(folder, POOL, pool)
    for name, found in references.items():
        vectors.publish(folder, name, found)
    slices = [(name, start) for name in (POOL, *references) for start in range(0, len(pool), vectors.SLICE)]
    frame = spark.createDataFrame(slices, "collection string, start long").repartition(
        max(1, min(len(slices), context.config.runtime.partitions)), "start"
    )

    def search(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for row in batch.to_pylist():
                yield _search_slice(folder, row["collection"], row["start"], recipe)

    found = frame.mapInArrow(search, from_arrow_schema(schema.EDGES.schema))
    # both ends of a pair find it: keep it once
    context.store.write(schema.EDGES, found.distinct(), context.run)
    shutil.rmtree(folder)


def _search_slice(folder: Path, collection: str, start: int, recipe: Dedup) -> pa.RecordBatch:
    base, base_ids = vectors.vectors_at(folder, collection), vectors.ids_at(folder, collection)
    queries = vectors.vectors_at(folder, POOL)[start : start + vectors.SLICE]
    ids = vectors.ids_at(folder, POOL)[start : start + vectors.SLICE]
    index = knn.load(folder / f"{collection}.faiss")
    rows = np.arange(start, start + len(queries)) if collection == POOL else None
    threshold = recipe.threshold if collection == POOL else recipe.reference_threshold
    query, other, similarity = knn.similar_pairs(index, base, queries, rows, recipe.k, threshold)
    left, right = ids[query], base_ids[other]
    if collection == POOL:
        left, right = np.where(left < right, left, right), np.where(left < right, right, left)
    columns = [
        pa.array([collection] * len(query), pa.string()),
        pa.array(left, pa.string()),
        pa.array(right, pa.string()),
        pa.array(similarity, pa.float32()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema.EDGES.schema)


def _edges(
    context: Context, collection: str, lower: dict[str, int], higher: dict[str, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The written edges of a collection as ([m, 2] node numbers, [m] similarities), in the order of their ids."""
    written = context.store.table("edges", filter=pa.compute.field("collection") == collection)
    written = written.sort_by([("lower_id", "ascending"), ("higher_id", "ascending")])
    pairs = zip(written["lower_id"].to_pylist(), written["higher_id"].to_pylist(), strict=True)
    edges = np.array([(lower[a], higher[b]) for a, b in pairs], np.int64).reshape(-1, 2)
    return edges, written["similarity"].to_numpy()


def _preference(context: Context, ids: np.ndarray) -> np.ndarray:
    screened = context.store.table("screened", columns=["image_id", "width", "height"])
    sizes = context.store.table("images", columns=["image_id", "size_bytes"])
    known = pa.table({"image_id": pa.array(ids, pa.string())})
    joined = known.join(screened, "image_id").join(sizes, "image_id").sort_by("image_id")
    assert joined.num_rows == len(ids), "an embedded image was not screened or indexed"
    return duplicates.preference(
        ids, joined["width"].to_numpy(), joined["height"].to_numpy(), joined["size_bytes"].to_numpy()
    )


def _relative(
    context: Context,
    name: str,
    pool_node: dict[str, int],
    references: vectors.Vectors,
    edges: np.ndarray,
    similarities: np.ndarray,
) -> pa.Table:
    reference_node = {image_id: i for i, image_id in enumerate(references.ids)}
    direct, scores = _edges(context, name, pool_node, reference_node)
    scope = context.config.recipe.dedup.reference_scope
    return relative.relative(
        np.array(list(pool_node), np.str_), edges, similarities, references.ids, direct, scores, scope
    )


STAGE = Stage(
    name="dedup",
    version=1,
    after="embed",
    writes=lambda _: (schema.EDGES, schema.COMPONENTS),
    run=run,
)

if __name__ == "__main__":
    main(STAGE)
