"""Write the release: WebDataset shards, their index, and a manifest that says what each image rests on.

A unit is a selected image. Executors write whole shards; the folder takes its name only when the manifest is there. A
shard of the release before that would come out the same is taken over.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import cv2
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from curation import schema
from curation.read_ahead import ReadAhead
from curation.release.blurring import Lookout, LookoutSpec, lookout
from curation.release.making import make_shard, take_over
from curation.release.manifest import INDEX_SCHEMA, Shard, write_release_files
from curation.release.placing import is_release, partial_folder, put_in_place
from curation.release.plan import fitting_shards, plan, shard_name
from curation.release.reader import ReleaseReader
from curation.release.safety import Blurred, DetectorRecord, Nsfw, Safety
from curation.release.samples import described, fingerprint, sample
from curation.release.shards import Sample
from curation.store import Run, Store, locate
from spark_jobs.config import CurationConfig
from spark_jobs.ledger import ledger_rows
from spark_jobs.near_exact import place
from spark_jobs.own_images import with_own_images
from spark_jobs.sources import base_folder
from spark_jobs.stage import Context, Stage, main
from spark_jobs.tables import Outcome

_WRITTEN = pa.schema(
    [
        *(field.with_nullable(True) for field in INDEX_SCHEMA),
        pa.field("number", pa.int32()),
        pa.field("shard_bytes", pa.int64()),
        pa.field("shard_sha256", pa.string()),
        pa.field("inputs", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("evidence", pa.string()),
        pa.field("score", pa.float64()),
        pa.field("model", pa.string()),
    ]
)


def run(context: Context) -> Outcome:
    """Write the release folder whole; decide on every selected image."""
    spark, store, recipe = context.spark, context.store, context.config.recipe.publish
    selected = _selected(context)
    sizes = selected.select("image_id", "size_bytes").toArrow().sort_by("image_id")
    ids = sizes["image_id"].to_pylist()
    num_shards = recipe.num_shards or fitting_shards(
        sizes["size_bytes"].to_numpy(), recipe.shard_bytes, _previous_shards(store)
    )
    planned = plan(ids, num_shards, recipe.seed)

    check_place(context.config)
    filesystem, release = locate(context.config.release)
    partial_release = partial_folder(release)
    if filesystem.exists(partial_release):
        filesystem.rm(partial_release, recursive=True)
    filesystem.makedirs(partial_release)
    uri = filesystem.unstrip_protocol(partial_release)
    store_uri, previous = store.uri, context.config.release
    runs = {stage: run for stage, run in store.runs().items() if stage != context.run.stage}
    blur = _lookout_spec(runs["screen"], recipe.blur)
    lookout(blur)  # refuses a detector that is not the one on record before any work is done

    def write(group: pa.Table) -> pa.Table:
        cv2.setNumThreads(1)  # the tasks are the parallelism
        return _write_group(group, store_uri, previous, uri, lookout(blur), blur.labels)

    known = store.frame(spark, schema.RELEASE_SHARDS).select("number", "inputs", "sha256")
    numbered = spark.createDataFrame(planned).withColumnRenamed("shard", "number").join(known, "number", "left")
    grouped = selected.join(numbered, "image_id")
    grouped = grouped.repartition(context.config.runtime.partitions, "number").groupBy("number")
    written = grouped.applyInArrow(write, from_arrow_schema(_WRITTEN)).toArrow().cast(_WRITTEN).sort_by("image_id")

    good = written.filter(pc.is_null(written["reason"]))
    made = _counted(good)
    store.write(schema.RELEASE_SHARDS, made.select(schema.RELEASE_SHARDS.schema.names), context.run)
    columns = ("image_id", "reason", "evidence", "score", "model")
    rows = ledger_rows(spark.createDataFrame(written.select(columns)), **{column: column for column in columns})
    dropped = {r["values"]: r["counts"] for r in written["reason"].drop_null().value_counts().to_pylist()}
    this = Run(
        "publish", context.run.run_id, context.run.recipe, context.run.inputs, {}, len(ids), len(good), dropped, {}
    )
    embed = runs["embed"]
    manifest = write_release_files(
        uri,
        good.select(INDEX_SCHEMA.names).cast(INDEX_SCHEMA),
        [Shard(**row) for row in made.select(list(Shard.model_fields)).to_pylist()],
        num_shards,
        {**runs, "publish": this},
        {stage: run.recipe for stage, run in {**runs, "publish": this}.items()},
        {name: embed.metrics[name]["digest"] for name in sorted(embed.recipe["models"])},
        _safety(store, runs["screen"], recipe.blur, good),
        recipe.name,
    )
    put_in_place(filesystem, partial_release, release)
    metrics = {"num_shards": num_shards, "shards": len(manifest.shards), "bytes": manifest.image_bytes}
    metrics |= {"merkle_root": manifest.merkle_root}
    return Outcome(len(ids), rows, metrics | {"blurred": manifest.safety.model_dump()["blurred"]})


def _previous_shards(store: Store) -> int | None:
    last = store.last_runs().get("publish")
    return last.metrics.get("num_shards") if last else None


def _selected(context: Context) -> DataFrame:
    """One row a selected image: where its bytes lie and what its metadata will say."""
    spark, store = context.spark, context.store
    selection = store.frame(spark, schema.SELECTION).select("image_id", "collection", "source", "cluster")
    kept = store.kept(spark, "retrieve").select("image_id")
    images = with_own_images(context, ("shard", "offset_bytes", "size_bytes"), store.frame(spark, schema.IMAGES))
    screened = with_own_images(context, ("format", "width", "height"), store.frame(spark, schema.SCREENED))
    own = store.frame(spark, schema.OWN_IMAGES).select("image_id", "path")
    sightings = (
        store.frame(spark, schema.SIGHTINGS)
        .unionByName(own, allowMissingColumns=True)
        .groupBy("image_id")
        .agg(
            F.array_sort(F.collect_set("url")).alias("urls"),
            F.array_sort(F.collect_set("page_url")).alias("pages"),
            F.array_sort(F.collect_set("path")).alias("paths"),
            F.array_sort(F.array_distinct(F.flatten(F.collect_list("rights")))).alias("rights"),
        )
    )
    blur = context.config.recipe.publish.blur
    boxes = (
        store.frame(spark, schema.DETECTIONS)
        .unionByName(store.frame(spark, schema.OWN_DETECTIONS))
        .where(F.col("label").isin(blur) & F.col("x").isNotNull())
        .groupBy("image_id")
        .agg(F.array_sort(F.collect_set(F.array("x", "y", "width", "height"))).alias("boxes"))
    )
    facts = (selection, images, screened, sightings)
    return functools.reduce(lambda rows, more: rows.join(more, "image_id"), facts, kept).join(boxes, "image_id", "left")


def _lookout_spec(screen: Run, labels: list[str]) -> LookoutSpec:
    """The detectors that screened the images, as far as they find what is to be blurred."""
    detectors = screen.recipe.get("detectors", {})
    records = screen.metrics.get("detectors", {})
    return LookoutSpec.model_validate({"detectors": detectors, "records": records, "labels": labels})


def _safety(store: Store, screen: Run, labels: list[str], index: pa.Table) -> Safety:
    """What the release says of people and unsafe content."""
    detectors = {name: DetectorRecord(**record) for name, record in screen.metrics.get("detectors", {}).items()}
    found = {label for record in detectors.values() for label in record.labels}
    regions = [count for count in index["blurred"].to_pylist() if count]
    blurred = Blurred(labels=labels, images=len(regions), regions=sum(regions)) if found & set(labels) else None
    nsfw = None
    if "nsfw" in found:
        nsfw = Nsfw(threshold=screen.recipe["nsfw_threshold"], highest=store.highest_nsfw(index["image_id"]))
    return Safety(detectors=detectors, blurred=blurred, nsfw=nsfw)


def _write_group(
    group: pa.Table, store_uri: str, previous: str, release_uri: str, judge: Lookout, labels: list[str]
) -> pa.Table:
    """Write one shard, or take it over, and describe its images; one that is left out is named with the reason."""
    rows = group.sort_by("position").to_pylist()
    number, name = rows[0]["number"], shard_name(rows[0]["number"])
    inputs = fingerprint(rows, f"{judge.digest} {sorted(labels)}")
    about: list[dict[str, Any]] = []
    left_out: list[dict[str, Any]] = []

    def samples() -> Iterator[Sample]:
        store = Store(store_uri)
        with store.shard_reader() as read:
            ahead = ReadAhead(store, read, map(place, rows))
            for row in rows:
                released, found = sample(row, ahead, judge)
                if released is None:
                    left_out.append(found)
                else:
                    about.append(found)
                    yield released

    made = take_over(previous, release_uri, name, rows[0]["sha256"]) if rows[0]["inputs"] == inputs else None
    if made is not None and len(made.members) == len(rows):  # nobody was left out, who may be readable now
        about = [described(row, boxes, judge) for row, boxes in zip(rows, made.blurred, strict=True)]
    else:
        wanted = samples()
        if (first := next(wanted, None)) is None:
            return pa.Table.from_pylist(left_out, schema=_WRITTEN)
        made = make_shard(release_uri, name, itertools.chain([first], wanted))
    this = {"shard": name, "number": number, "inputs": inputs}
    this |= {"shard_bytes": made.size_bytes, "shard_sha256": made.sha256}
    index = [found | member._asdict() | this for found, member in zip(about, made.members, strict=True)]
    return pa.Table.from_pylist(index + left_out, schema=_WRITTEN)


def _counted(index: pa.Table) -> pa.Table:
    """Rows as in ``schema.RELEASE_SHARDS``, and their names."""
    of_shard = ["number", "shard", "inputs", "shard_bytes", "shard_sha256"]
    counted = index.group_by(of_shard).aggregate([("image_id", "count")]).sort_by("number")
    names = ["number", "name", "inputs", "size_bytes", "sha256", "images"]
    return counted.select([*of_shard, "image_id_count"]).rename_columns(names)


def check_place(config: CurationConfig) -> None:
    """Refuse to publish over anything but a release.

    Raises:
        ValueError: the release's folder holds other files, or holds or lies in the store or a source.
    """
    filesystem, release = locate(config.release)
    sources = config.sources
    others = {"store": config.store, **sources.images, **sources.collections}
    others |= {f"sources.pages[{i}]": root for i, root in enumerate(sources.pages)}
    for name, root in others.items():
        other = base_folder(root) if name != "store" else locate(root)[1]
        if f"{release}/".startswith(f"{other}/") or f"{other}/".startswith(f"{release}/"):
            raise ValueError(f"release={config.release} and {name}={root} share a folder; give the release its own")
    if filesystem.exists(release) and filesystem.ls(release) and not is_release(filesystem, release):
        raise ValueError(
            f"release={config.release}: the folder holds files that are no release; name an empty or new one"
        )


def is_whole(config: CurationConfig, run_id: str) -> bool:
    """Whether the release of this run is where the configuration says."""
    check_place(config)
    try:
        return ReleaseReader(config.release).manifest.runs["publish"].run_id == run_id
    except (ValueError, KeyError):  # none there, or a damaged one
        return False


STAGE = Stage(
    name="publish",
    version=4,
    after="retrieve",
    writes=lambda _: (schema.RELEASE_SHARDS,),
    run=run,
    is_whole=is_whole,
)

if __name__ == "__main__":
    main(STAGE)
