"""Write the release: WebDataset shards, their index, and a manifest that says what each image rests on.

A unit is a selected image. Executors write whole shards; the folder takes its name only when the manifest is there.
"""

import functools
import hashlib
from typing import Any, BinaryIO

import cv2
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from curation import schema
from curation.release.blurring import Lookout, LookoutSpec, lookout
from curation.release.manifest import INDEX_SCHEMA, MANIFEST, Shard, write_release_files
from curation.release.plan import plan, shard_name
from curation.release.reader import ReleaseReader
from curation.release.safety import Blurred, DetectorRecord, Nsfw, Safety
from curation.release.samples import sample
from curation.release.shards import Sample, write_shard
from curation.store import Run, Store, locate
from curation.whole_files import whole_file
from spark_jobs.config import CurationConfig
from spark_jobs.ledger import ledger_rows
from spark_jobs.own_images import with_own_images
from spark_jobs.sources import base_folder
from spark_jobs.stage import Context, Stage, main
from spark_jobs.tables import Outcome

_WRITTEN = pa.schema(
    [
        *(field.with_nullable(True) for field in INDEX_SCHEMA),
        pa.field("shard_bytes", pa.int64()),
        pa.field("shard_sha256", pa.string()),
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
    planned = plan(ids, sizes["size_bytes"].to_numpy(), recipe.shard_bytes, recipe.seed)

    check_place(context.config)
    filesystem, release = locate(context.config.release)
    partial_release = f"{release.rstrip('/')}.partial"
    if filesystem.exists(partial_release):
        filesystem.rm(partial_release, recursive=True)
    filesystem.makedirs(partial_release)
    uri = filesystem.unstrip_protocol(partial_release)
    store_uri = store.uri
    runs = {stage: run for stage, run in store.runs().items() if stage != context.run.stage}
    blur = _lookout_spec(runs["screen"], recipe.blur)
    lookout(blur)  # refuses a detector that is not the one on record before any work is done

    def write(group: pa.Table) -> pa.Table:
        cv2.setNumThreads(1)  # the tasks are the parallelism
        return _write_group(group, store_uri, uri, lookout(blur))

    grouped = selected.join(spark.createDataFrame(planned).withColumnRenamed("shard", "number"), "image_id")
    grouped = grouped.repartition(context.config.runtime.partitions, "number").groupBy("number")
    written = grouped.applyInArrow(write, from_arrow_schema(_WRITTEN)).toArrow().cast(_WRITTEN).sort_by("image_id")

    good = written.filter(pc.is_null(written["reason"]))
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
        _shards(good),
        {**runs, "publish": this},
        {stage: run.recipe for stage, run in {**runs, "publish": this}.items()},
        {name: embed.metrics[name]["digest"] for name in sorted(embed.recipe["models"])},
        _safety(store, runs["screen"], recipe.blur, good),
        recipe.name,
    )
    _replace(filesystem, partial_release, release)
    metrics = {"shards": len(manifest.shards), "bytes": manifest.image_bytes, "merkle_root": manifest.merkle_root}
    return Outcome(len(ids), rows, metrics | {"blurred": manifest.safety.model_dump()["blurred"]})


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
        tables = (schema.DETECTIONS.name, schema.OWN_DETECTIONS.name)
        parts = [store.table(name, ["image_id", "score"], pc.field("label") == "nsfw") for name in tables]
        scored = pa.concat_tables(parts)
        scores = scored.filter(pc.is_in(scored["image_id"], index["image_id"].combine_chunks()))["score"]
        nsfw = Nsfw(threshold=screen.recipe["nsfw_threshold"], highest=pc.max(scores).as_py())
    return Safety(detectors=detectors, blurred=blurred, nsfw=nsfw)


def _write_group(group: pa.Table, store_uri: str, release_uri: str, judge: Lookout) -> pa.Table:
    """Write one shard and describe its images; one that is left out is named with the reason."""
    rows = group.sort_by("position").to_pylist()
    name = shard_name(rows[0]["number"])
    samples: list[Sample] = []
    about: list[dict[str, Any]] = []
    left_out: list[dict[str, Any]] = []
    with Store(store_uri).shard_reader() as read:
        for row in rows:
            released, found = sample(row, read, judge)
            if released is None:
                left_out.append(found)
            else:
                samples.append(released)
                about.append(found)
    if not samples:
        return pa.Table.from_pylist(left_out, schema=_WRITTEN)
    filesystem, folder = locate(release_uri)
    with whole_file(filesystem, f"{folder}/{name}") as file:
        hashing = _Hashing(file)
        members = write_shard(hashing, samples)
    written = {"shard": name, "shard_bytes": hashing.size_bytes, "shard_sha256": hashing.digest.hexdigest()}
    index = [found | member._asdict() | written for found, member in zip(about, members, strict=True)]
    return pa.Table.from_pylist(index + left_out, schema=_WRITTEN)


class _Hashing:
    """A file that knows the SHA-256 and the size of what was written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.size_bytes = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size_bytes += len(data)
        return self.file.write(data)


def _shards(index: pa.Table) -> list[Shard]:
    counted = index.group_by(["shard", "shard_bytes", "shard_sha256"]).aggregate([("image_id", "count")])
    return [
        Shard(name=r["shard"], size_bytes=r["shard_bytes"], sha256=r["shard_sha256"], images=r["image_id_count"])
        for r in counted.sort_by("shard").to_pylist()
    ]


def _replace(filesystem: Any, new: str, place: str) -> None:
    """Put a finished folder in another's place: a reader finds the old one, none, or the new one, never a part."""
    replaced = f"{place.rstrip('/')}.replaced"
    if filesystem.exists(replaced):
        filesystem.rm(replaced, recursive=True)
    if filesystem.exists(place):
        filesystem.mv(place, replaced, recursive=True)
    filesystem.mv(new, place, recursive=True)
    if filesystem.exists(replaced):
        filesystem.rm(replaced, recursive=True)


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
    if filesystem.exists(release) and filesystem.ls(release) and not _is_release(filesystem, release):
        raise ValueError(
            f"release={config.release}: the folder holds files that are no release; name an empty or new one"
        )


def _is_release(filesystem: Any, folder: str) -> bool:
    manifest = f"{folder}/{MANIFEST}"
    return bool(filesystem.exists(manifest) and b"openlvd-release" in filesystem.cat_file(manifest))


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
    writes=lambda _: (),
    run=run,
    is_whole=is_whole,
)

if __name__ == "__main__":
    main(STAGE)
