"""Embed the screened images, and the evaluation and query collections, with every model of the recipe.

A unit is an image of the pool. Each model fills its own table, ``embeddings_<name>``, with float16 vectors: facts that
stay, so a new snapshot embeds only images without one. The work is cut into pieces (``curation.descriptors.plan``) that
Spark does itself, or leaves to an array of GPU machines: ``runtime.embed.by=array``.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from curation import schema
from curation.descriptors import plan as plans
from curation.descriptors.base import Embedder, EmbedderSpec
from curation.descriptors.loading import load_embedder
from curation.descriptors.plan import Plan, Unit
from curation.descriptors.worker import Effort
from curation.schema import Reason, Table
from curation.store import Store, locate
from spark_jobs.config import CurationConfig
from spark_jobs.events import EventLog
from spark_jobs.index import imported_files
from spark_jobs.ledger import ledger_rows
from spark_jobs.scratch import scratch
from spark_jobs.stage import Context, Stage, main
from spark_jobs.tables import Outcome, RunKey, Tables

_PLANNED = pa.schema([("name", pa.string()), ("num_images", pa.int64())])
_DONE = pa.schema(
    [(name, pa.int64()) for name in ("images", "failed")]
    + [(f"{name}_s", pa.float64()) for name in ("read", "decode", "model", "write")]
)
_PASSED_OVER_SHOWN = 5
_THREADS = 16  # that ask the file system for the sizes of parts


def run(context: Context) -> Outcome:
    """Write ``collections``, add to one embeddings table a model; an image that a model cannot embed is dropped."""
    spark, store, recipe = context.spark, context.store, context.config.recipe.embed
    metrics = _write_collections(context)
    pool_ids = store.kept(spark, "screen").select("image_id")
    members = store.frame(spark, schema.COLLECTIONS)
    wanted = _wanted(pool_ids.join(store.frame(spark, schema.IMAGES), "image_id"), members)

    models = {name: load_embedder(spec) for name, spec in recipe.models.items()}
    _add_missing(context, models, wanted)
    failed: DataFrame | None = None
    for name, model in models.items():
        table = schema.embeddings(name)
        rows = store.frame(spark, table).where(F.col("model") == model.digest)
        vectors = rows.where(F.col("vector").isNotNull()).select("image_id")
        lost = members.select("image_id").distinct().join(vectors, "image_id", "left_anti").count()
        metrics[name] = {"model": model.name, "kind": model.kind, "dim": model.dim, "digest": model.digest}
        metrics[name]["collection_images_lost"] = lost
        errors = rows.where(F.col("vector").isNull()).select("image_id", "error", "model")
        lacking = pool_ids.join(vectors, "image_id", "left_anti").join(errors, "image_id", "left")
        failed = lacking if failed is None else failed.unionByName(lacking)

    assert failed is not None, "the configuration names the models of dedup and retrieval"
    first = failed.groupBy("image_id").agg(F.min(F.struct("error", "model")).alias("failure"))
    rows = ledger_rows(
        pool_ids.join(first, "image_id", "left"),
        image_id="image_id",
        reason=F.when(F.col("failure").isNotNull(), Reason.EMBEDDING_FAILED.value),
        evidence="failure.error",
        model="failure.model",
    )
    return Outcome(pool_ids.count(), rows, metrics)


def _write_collections(context: Context) -> dict[str, Any]:
    """Write ``collections``: a row for every picture of every collection, of a folder or of tars or Parquet in it.

    Returns:
        ``collection_files_passed_over``, how many files are no pictures, with the first of them: what a set was to
        hold and does not, nothing is compared with.
    """
    with scratch(context) as folder:
        files = folder.keep("files", imported_files(context, context.config.sources.collections))
        place = F.split("path", ":", 2)
        pictures = files.where(F.col("image_id").isNotNull()).withColumns({"collection": place[0], "path": place[1]})
        context.store.write(schema.COLLECTIONS, pictures, context.run)
        rest = files.where(F.col("image_id").isNull())
        first = rest.select("path", "reason").orderBy("path").limit(_PASSED_OVER_SHOWN).collect()
        return {
            "collection_files_passed_over": rest.count(),
            "collection_files_passed_over_first": [f"{row['path']}: {row['reason']}" for row in first],
        }


def _wanted(pool: DataFrame, members: DataFrame) -> DataFrame:
    """One place for every image that is to have a vector: where the pool has it, else in a collection."""
    place = F.struct("order", "shard", "offset_bytes", "size_bytes")
    columns = ("image_id", "shard", "offset_bytes", "size_bytes")
    every = (
        pool.select(*columns, F.lit(0).alias("order"))
        .unionByName(members.select(*columns, F.lit(1).alias("order")))
        .groupBy("image_id")
        .agg(F.min(place).alias("place"))
    )
    return every.select("image_id", "place.shard", "place.offset_bytes", "place.size_bytes")


def _add_missing(context: Context, models: dict[str, Embedder], wanted: DataFrame) -> None:
    """Embed what the tables have no vector of, and add it in one commit a table.

    Raises:
        ValueError: an array is to do it, and has not done it all.
    """
    store, specs = context.store, context.config.recipe.embed.models
    tables = {name: schema.embeddings(name) for name in models}
    planned = {
        name: _plan(context, tables[name], specs[name], model, wanted)
        for name, model in models.items()
        if not store.has_added(tables[name], context.run)
    }
    left = {name: plans.pending(store, plan) for name, plan in planned.items()}
    if context.config.runtime.embed.by == "array" and any(left.values()):
        raise ValueError(
            f"embed: {sum(map(len, left.values()))} of {sum(len(plan.units) for plan in planned.values())} units are "
            f"to be embedded; run python -m curation.descriptors.array {store.uri} and, when its jobs have ended, "
            "this command again"
        )
    for name, plan in planned.items():
        effort = _work(context, plan, left[name])
        store.adopt(tables[name], _parts(store, plan, plan.units), context.run)
        plans.remove_plan(store, plan.key)
        done = {"planned": plan.num_images, "images": effort.images, "failed": effort.failed, **effort.shares()}
        EventLog(store.path("logs", "run.jsonl")).write("embedded", table=plan.table, model=plan.digest, **done)


def _plan(context: Context, table: Table, spec: EmbedderSpec, model: Embedder, wanted: DataFrame) -> Plan:
    """The plan that a run which was killed has left, or a new one."""
    store, limit = context.store, context.config.recipe.embed.max_pixels
    live = [plan for plan in plans.plans(store) if plan.table == table.name]
    current = plans.key_of(table.name, store.version(table), model.digest, limit, context.run.inputs)
    if any(plan.key != current for plan in live):
        _adopt_abandoned(store, table, live, context.run)
    version = store.version(table)
    key = plans.key_of(table.name, version, model.digest, limit, context.run.inputs)
    if (found := plans.read_plan(store, key)) is not None:
        return found
    plans.remove_plan(store, key)
    rows = store.frame(context.spark, table).where(F.col("model") == model.digest)
    known = rows.groupBy("image_id").agg(F.max(F.col("vector").isNotNull()).alias("has_vector"))
    lacking = wanted.join(known, "image_id", "left").where("has_vector is null or not has_vector")
    lacking = lacking.withColumn("has_error", F.col("has_vector").isNotNull()).select(*plans.UNIT_SCHEMA.names)
    spread = lacking.repartitionByRange(context.config.runtime.partitions, "shard", "offset_bytes", "image_id")
    uri, size = store.uri, context.config.runtime.embed.images_per_task

    def write(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        task = TaskContext.get()
        assert task is not None
        for number, rows in enumerate(_pieces(batches, size)):
            unit = Unit(f"{task.partitionId():06d}-{number:06d}", rows.num_rows)
            plans.write_unit(uri, key, unit.name, rows)
            yield pa.RecordBatch.from_pylist([unit._asdict()], schema=_PLANNED)

    ordered = spread.sortWithinPartitions("shard", "offset_bytes", "image_id")
    written = ordered.mapInArrow(write, from_arrow_schema(_PLANNED)).collect()
    units = tuple(sorted(Unit(row["name"], row["num_images"]) for row in written))
    plan = Plan(key, table.name, version, spec.model_dump_json(), model.digest, limit, units)
    plans.write_plan(store, plan)
    return plan


def _adopt_abandoned(store: Tables, table: Table, live: list[Plan], run: RunKey) -> None:
    """Add what has been done of plans for other input, and remove them: an embedding is a fact whoever asked for it.

    Of two plans for one model, which may name the same images, the one that is further ahead is taken.
    """
    done = {plan.key: sorted(set(plan.units) - set(plans.pending(store, plan))) for plan in live}
    ahead = sorted(live, key=lambda plan: (sum(unit.num_images for unit in done[plan.key]), plan.key))
    parts = {plan.digest: _parts(store, plan, done[plan.key]) for plan in ahead}  # the last of a model stays
    found = [part for each in parts.values() for part in each]
    if found:
        keys = "-".join(plan.key for plan in live)
        store.adopt(table, found, replace(run, run_id=f"plans-{keys}"))  # the run itself has yet to add its own
        EventLog(store.path("logs", "run.jsonl")).write(
            "adopted", table=table.name, plans=len(live), images=sum(part["rows"] for part in found)
        )
    for plan in live:
        plans.remove_plan(store, plan.key)


def _pieces(batches: Iterable[pa.RecordBatch], size: int) -> Iterator[pa.Table]:
    """The rows of all batches in tables of ``size`` rows; the last may have fewer."""
    held: list[pa.Table] = []
    for batch in batches:
        held.append(pa.Table.from_batches([batch]))
        while sum(table.num_rows for table in held) >= size:
            together = pa.concat_tables(held)
            yield together.slice(0, size)
            held = [together.slice(size)]
    if any(table.num_rows for table in held):
        yield pa.concat_tables(held)


_LOADED: dict[str, Embedder] = {}  # one model a worker process, not one a unit


def _work(context: Context, plan: Plan, left: list[Unit]) -> Effort:
    """Do the units that are left, a task each."""
    total = Effort()
    if not left:
        return total
    uri, threads = context.store.uri, context.config.runtime.embed.threads
    small = replace(plan, units=())  # tasks need the names of their own units only

    def embed(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for row in batch.to_pylist():
                if small.model not in _LOADED:
                    _LOADED.clear()
                    _LOADED[small.model] = load_embedder(small.spec)
                unit = Unit(row["name"], row["num_images"])
                effort = plans.embed_unit(Store(uri), small, unit, _LOADED[small.model], threads)
                yield pa.RecordBatch.from_pylist([effort.values()], schema=_DONE)

    frame = context.spark.createDataFrame([unit._asdict() for unit in left], from_arrow_schema(_PLANNED))
    spread = frame.coalesce(1).repartition(len(left))  # from one place: evenly
    for row in spread.mapInArrow(embed, from_arrow_schema(_DONE)).collect():
        total.add(**row.asDict())
    return total


def _parts(store: Store, plan: Plan, units: Iterable[Unit]) -> list[dict[str, Any]]:
    """The files of a plan's units that have been done, as a commit names them."""
    filesystem, root = locate(store.table_uri(plan.table))

    def part(unit: Unit) -> dict[str, Any]:
        name = plan.part(unit)
        return {"path": name, "size": filesystem.size(f"{root}/{name}"), "rows": plans.num_rows(store, plan, unit)}

    with ThreadPoolExecutor(_THREADS) as pool:
        return [found for found in pool.map(part, units) if found["rows"]]


def tables(config: CurationConfig) -> tuple[schema.Table, ...]:
    """What this stage writes under a configuration."""
    return (schema.COLLECTIONS, *(schema.embeddings(name) for name in config.recipe.embed.models))


def notes(metrics: dict[str, Any]) -> list[str]:
    """What a user should see of a finished run."""
    count, first = metrics["collection_files_passed_over"], metrics["collection_files_passed_over_first"]
    return [f"collections: {count:,} files are no pictures and were passed over: {', '.join(first)}"] if count else []


STAGE = Stage(
    name="embed",
    version=3,
    after="screen",
    sources=("collections",),
    writes=tables,
    run=run,
    notes=notes,
)

if __name__ == "__main__":
    main(STAGE)
