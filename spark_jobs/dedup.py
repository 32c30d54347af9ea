"""Drop near-duplicates within the pool, then whatever resembles a reference set (DINOv2 paper, section 3).

A unit is an embedded image. New images are added to the index and joined with all others; the edges that were ever
found stay. What they mean for the images that are there now is decided anew in every run: edges above the thresholds
make components, and tasks decide on whole components.
"""

from dataclasses import dataclass
from functools import reduce
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from curation import schema
from curation.neighbours import decide
from curation.neighbours.certificate import Certificate
from curation.schema import POOL, Reason
from spark_jobs import components, stars, vectors
from spark_jobs.config import Dedup
from spark_jobs.join import Index, open_index
from spark_jobs.ledger import ledger_rows
from spark_jobs.normalise import that_stand_out
from spark_jobs.scratch import Scratch, scratch
from spark_jobs.stage import Context, Stage, main
from spark_jobs.tables import Outcome, Tables

_BUCKET_IMAGES = 50_000  # images whose components one task decides on, about
_SMALL = 1000  # images: a component up to this size is no percolation, whatever share of a small pool it is


def run(context: Context) -> Outcome:
    """Add to ``tiles`` and ``edges``, write ``references``, ``components``, ``forest``; decide on every image."""
    spark, store, recipe = context.spark, context.store, context.config.recipe.dedup
    model = store.runs()["embed"].metrics[recipe.model]["digest"]
    store.ensure(schema.TILES, schema.EDGES)
    kept = store.kept(spark, "embed").select("image_id")
    pool = _embedded(context).join(kept, "image_id", "left_semi")
    index = open_index(context, model, pool)
    index.add(POOL, pool)
    index.join(POOL, recipe.threshold)
    references = {name: _reference(context, index, name) for name in recipe.against}
    for name, reference in references.items():
        index.join(reference.collection, recipe.reference(name)[0], reference.store)
    store.write(schema.REFERENCES, _elsewhere(context, index, references), context.run)
    certificate = index.certify(pool, recipe.threshold, recipe.certificate_sample)

    with scratch(context) as folder:
        num_pool = kept.count()
        edges = folder.keep("edges", _edges(context, index, kept))
        labels = folder.keep("components", _labels(context, edges, folder))
        histogram = _histogram(labels, num_pool, recipe)
        decided = folder.keep("decided", _decided(context, index, kept, references, edges, labels))
        store.write(schema.COMPONENTS, _of(decided, decide.COMPONENT, other_id="witness"), context.run)
        store.write(schema.FOREST, _of(decided, decide.TREE, image_id="lower_id", other_id="higher_id"), context.run)
        counts = _of(decided, decide.COUNT).groupBy("image_id").agg(F.sum("number").alias("number")).collect()
        metrics = {
            "model": model,
            "index": index.name,
            "collections": {name: reference.collection for name, reference in references.items()},
            "edges": edges.count(),
            "component_sizes": {str(size): count for size, count in sorted(histogram.items())},
            "certificate": certificate.metrics(),
            **_counted({row["image_id"]: row["number"] for row in counts}, recipe),
        }
        rows = ledger_rows(
            kept.join(_reasons(decided, recipe), "image_id", "left"),
            image_id="image_id",
            reason="reason",
            evidence="evidence",
            score="score",
            threshold="threshold",
            model=F.lit(model),
        )
        store.append_decisions(rows, context.run)  # here, as what the rows come from is about to go
    return Outcome(num_pool, rows, metrics)


def _embedded(context: Context) -> DataFrame:
    return vectors.frame_of(context.store, context.spark, context.config.recipe.dedup.model)


@dataclass(frozen=True)
class _Reference:
    """A reference set that is in the index.

    Attributes:
        collection: as in the tables ``tiles`` and ``edges``.
        images: column image_id, those that are in it now.
        store: where its shards lie; None: in this store.
    """

    collection: str
    images: DataFrame
    store: str | None = None


def _reference(context: Context, index: Index, name: str) -> _Reference:
    """Add a reference set to the index.

    Raises:
        ValueError: the set holds no image, or none that could be embedded; another store has no index to read.
    """
    if (uri := context.config.sources.stores.get(name)) is not None:
        collection, other = index.add_store(name, uri), Tables(uri)
        if "embed" not in other.runs():
            raise ValueError(f"sources.stores.{name}={uri}: its embed stage is out of date; run that store's recipe")
        return _Reference(collection, other.kept(context.spark, "embed").select("image_id"), uri)
    ids = context.store.frame(context.spark, schema.COLLECTIONS).where(F.col("collection") == name)
    ids = ids.select("image_id").distinct()
    found = _embedded(context).join(ids, "image_id", "left_semi")
    if found.isEmpty():
        if num_images := ids.count():
            raise ValueError(
                f"recipe.dedup.against names {name!r}, of whose {num_images:,} pictures none could be embedded; mend "
                f"sources.collections.{name} or take it out (the errors are in the table "
                f"{schema.embeddings(context.config.recipe.dedup.model).name})"
            )
        raise ValueError(
            f"recipe.dedup.against names {name!r}, which holds no image; check the path sources.collections.{name}"
        )
    index.add(name, found)
    return _Reference(name, found.select("image_id"))


def _elsewhere(context: Context, index: Index, references: dict[str, _Reference]) -> DataFrame | pa.Table:
    """Rows as in ``schema.REFERENCES``; what reads this store alone could not know whether they are still there."""
    parts = [
        index.edges(reference.collection, context.config.recipe.dedup.reference(name)[0])
        .select(F.lit(reference.collection).alias("collection"), F.col("higher_id").alias("image_id"))
        .distinct()
        .join(reference.images, "image_id", "left_semi")
        for name, reference in references.items()
        if reference.store is not None
    ]
    return reduce(DataFrame.unionByName, parts) if parts else schema.REFERENCES.schema.empty_table()


def _edges(context: Context, index: Index, kept: DataFrame) -> DataFrame:
    """The pool's edges (lower_id, higher_id, similarity) that count: both images are there, and near enough."""
    recipe = context.config.recipe.dedup
    edges = index.edges(POOL, recipe.threshold)
    for end in ("lower_id", "higher_id"):
        edges = edges.join(kept.withColumnRenamed("image_id", end), end, "left_semi")
    if recipe.normalise is not None:
        background = vectors.load(context.store, recipe.model, recipe.normalise.background).vectors
        edges = that_stand_out(edges, _embedded(context), background, recipe.normalise, recipe.threshold)
    if recipe.k is None:
        return edges
    one = F.struct(F.col("lower_id").alias("node"), F.col("higher_id").alias("other"))
    two = F.struct(F.col("higher_id").alias("node"), F.col("lower_id").alias("other"))
    ends = edges.select(F.explode(F.array(one, two)).alias("end"), "similarity").select("end.*", "similarity")
    rank = F.row_number().over(Window.partitionBy("node").orderBy(F.col("similarity").desc(), "other"))
    near = ends.withColumn("rank", rank).where(F.col("rank") <= recipe.k)
    pair = (F.least("node", "other").alias("lower_id"), F.greatest("node", "other").alias("higher_id"), "similarity")
    return near.select(*pair).distinct()


def _labels(context: Context, edges: DataFrame, folder: Scratch) -> DataFrame:
    """Rows (image_id, label) of every image that has an edge: where the label is the same, so is the component."""
    if context.config.runtime.components == "local":
        return components.local(edges, folder)
    return stars.components(edges, folder.path("stars")).withColumnRenamed("component", "label")


def _histogram(labels: DataFrame, num_pool: int, recipe: Dedup) -> dict[int, int]:
    """Components by size.

    Raises:
        ValueError: one holds more of the pool than the recipe allows.
    """
    sizes = labels.groupBy("label").agg(F.count("image_id").alias("size")).groupBy("size").count().collect()
    histogram = {row["size"]: row["count"] for row in sizes}
    largest = max(histogram, default=0)
    if largest > max(_SMALL, recipe.max_component_share * num_pool):
        found = ", ".join(f"{histogram[size]:,} of {size:,}" for size in sorted(histogram, reverse=True)[:20])
        raise ValueError(
            f"recipe.dedup.max_component_share={recipe.max_component_share}: one component holds {largest:,} of "
            f"{num_pool:,} images, so unlike images are chained; raise recipe.dedup.threshold (now "
            f"{recipe.threshold}; no pair is searched again), or the share. Components by size: {found}"
        )
    return histogram


def _decided(
    context: Context,
    index: Index,
    kept: DataFrame,
    references: dict[str, _Reference],
    edges: DataFrame,
    labels: DataFrame,
) -> DataFrame:
    """Every component's facts brought to one task, and what ``curation.neighbours.decide`` makes of them."""
    recipe = context.config.recipe.dedup
    of_lower = labels.withColumnRenamed("image_id", "lower_id")
    images = _qualities(context, labels)
    parts = [edges.join(of_lower, "lower_id").withColumn("kind", F.lit(decide.EDGE))]
    parts.append(images.withColumn("kind", F.lit(decide.IMAGE)))
    for name, reference in references.items():
        found = index.edges(reference.collection, recipe.reference(name)[0])
        found = found.join(kept.withColumnRenamed("image_id", "lower_id"), "lower_id", "left_semi")
        found = found.join(reference.images.withColumnRenamed("image_id", "higher_id"), "higher_id", "left_semi")
        alone = F.concat(F.lit("alone "), "lower_id")  # an image without a component is one of its own
        found = found.join(of_lower, "lower_id", "left").withColumn("label", F.coalesce("label", alone))
        parts.append(found.withColumn("kind", F.lit(f"set:{name}")))
    facts = reduce(lambda a, b: a.unionByName(b, allowMissingColumns=True), parts)
    buckets = max(context.config.runtime.partitions, labels.count() // _BUCKET_IMAGES)
    facts = facts.withColumn("bucket", F.pmod(F.xxhash64("label"), F.lit(buckets)))
    mode, rules = recipe.mode, {name: recipe.reference(name) for name in recipe.against}

    def work(group: pa.Table) -> pa.Table:
        return decide.decide(group.select(decide.FACTS.names).cast(decide.FACTS), mode, rules)

    return facts.groupBy("bucket").applyInArrow(work, from_arrow_schema(decide.DECIDED))


def _qualities(context: Context, labels: DataFrame) -> DataFrame:
    """Rows (image_id, label, eligible, width, height, size_bytes, crawled_at) of the images of some components."""
    spark, store = context.spark, context.store
    refused = ["noai", "noimageai", *context.config.recipe.extract_links.opt_out_signals]
    signals = F.transform(F.coalesce("rights", F.array()), lambda signal: F.element_at(F.split(signal, ":"), -1))
    met = store.frame(spark, schema.SIGHTINGS).join(labels.select("image_id"), "image_id", "left_semi")
    links = store.frame(spark, schema.LINKS).where("crawled_at is not null").select("url", "page_url", "crawled_at")
    met = met.withColumn("refused", F.arrays_overlap(signals, F.lit(refused))).join(links, ["url", "page_url"], "left")
    met = met.groupBy("image_id").agg(F.max("refused").alias("refused"), F.min("crawled_at").alias("crawled_at"))
    sizes = store.frame(spark, schema.SCREENED).select("image_id", "width", "height")
    sizes = sizes.join(store.frame(spark, schema.IMAGES).select("image_id", "size_bytes"), "image_id")
    joined = labels.join(sizes, "image_id", "left").join(met, "image_id", "left")
    eligible = ~F.coalesce("refused", F.lit(False))
    longs = {name: F.col(name).cast("long") for name in ("width", "height", "size_bytes")}
    return joined.withColumns({"eligible": eligible, **longs}).drop("refused")


def _of(decided: DataFrame, kind: str, **renamed: str) -> DataFrame:
    return decided.where(F.col("kind") == kind).withColumnsRenamed(renamed)


def _reasons(decided: DataFrame, recipe: Dedup) -> DataFrame:
    """One row (image_id, reason, evidence, score, threshold) for every image that goes; a copy is one whatever else."""
    near = _of(decided, decide.COMPONENT).where(F.col("image_id") != F.col("representative"))
    # in witness mode the witness is the representative; in paper mode the nearest image where there is no such edge
    near = near.withColumns(
        {"reason": F.lit(Reason.NEAR_DUPLICATE.value), "threshold": F.lit(recipe.threshold), "order": F.lit(1)}
    )
    copies = _of(decided, decide.COPY).withColumns({"reason": F.lit(Reason.EVALUATION_COPY.value), "order": F.lit(0)})
    why = F.struct(
        "order", "reason", F.col("other_id").alias("evidence"), F.col("similarity").alias("score"), "threshold"
    )
    first = near.unionByName(copies).groupBy("image_id").agg(F.min(why).alias("why"))
    return first.select("image_id", "why.*").drop("order")


def _counted(counts: dict[str, int], recipe: Dedup) -> dict[str, Any]:
    """What the other mode and the other scope would have dropped."""
    return {
        "near_duplicates": {mode: counts.get(f"near_duplicates_{mode}", 0) for mode in ("paper", "witness")},
        "evaluation_copies": {
            name: {scope: counts.get(f"copies_{name}_{scope}", 0) for scope in ("component", "direct")}
            for name in recipe.against
        },
    }


def notes(metrics: dict[str, Any]) -> list[str]:
    """What a user should see of a finished run."""
    near = metrics["near_duplicates"]
    lines = [
        str(Certificate(**metrics["certificate"])),
        f"near-duplicates: {near['witness']:,} with a direct edge to an image that stays (witness), "
        f"{near['paper']:,} by whole components (paper)",
    ]
    for name, count in metrics["evaluation_copies"].items():
        lines.append(
            f"copies of {name}: {count['direct']:,} by a direct edge, {count['component']:,} by whole components"
        )
    return lines


STAGE = Stage(
    name="dedup",
    version=4,
    after="embed",
    sources=("stores",),
    writes=lambda _: (schema.TILES, schema.EDGES, schema.REFERENCES, schema.COMPONENTS, schema.FOREST),
    run=run,
    notes=notes,
)

if __name__ == "__main__":
    main(STAGE)
