"""Write the release: WebDataset shards, their index, and a manifest that says what each image rests on.

A unit is a selected image. Executors write whole shards; the folder takes its name only when the manifest is there.
"""

import hashlib
import uuid
from typing import Any, BinaryIO

import fsspec
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from curation import schema
from curation.images.ids import image_id
from curation.release.manifest import INDEX_SCHEMA, MANIFEST, Shard, write_release_files
from curation.release.plan import plan, shard_name
from curation.release.reader import ReleaseReader
from curation.release.safety import Safety
from curation.release.shards import Sample, write_shard
from curation.schema import Reason
from curation.store import Run, Store
from spark_jobs.config import CurationConfig
from spark_jobs.ledger import ledger_rows
from spark_jobs.sources import base_folder
from spark_jobs.stage import Context, Stage, main
from spark_jobs.tables import Outcome

_EXTENSIONS = {"JPEG": "jpg", "TIFF": "tif"}  # any other format's own name will do
_WRITTEN = pa.schema(
    [
        *(field.with_nullable(True) for field in INDEX_SCHEMA),
        pa.field("shard_bytes", pa.int64()),
        pa.field("shard_sha256", pa.string()),
        pa.field("error", pa.string()),
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
    filesystem, release = fsspec.core.url_to_fs(context.config.release)
    partial_release = f"{release.rstrip('/')}.partial"
    if filesystem.exists(partial_release):
        filesystem.rm(partial_release, recursive=True)
    filesystem.makedirs(partial_release)
    uri = filesystem.unstrip_protocol(partial_release)
    store_uri = store.uri

    def write(group: pa.Table) -> pa.Table:
        return _write_group(group, store_uri, uri)

    grouped = selected.join(spark.createDataFrame(planned).withColumnRenamed("shard", "number"), "image_id")
    grouped = grouped.repartition(context.config.runtime.partitions, "number").groupBy("number")
    written = grouped.applyInArrow(write, from_arrow_schema(_WRITTEN)).toArrow().cast(_WRITTEN).sort_by("image_id")

    good = written.filter(pa.compute.is_null(written["error"]))
    decided = spark.createDataFrame(written.select(["image_id", "error"]))
    unreadable = F.when(F.col("error").isNotNull(), Reason.UNREADABLE.value)
    rows = ledger_rows(decided, image_id="image_id", reason=unreadable, evidence="error")
    runs = {stage: run for stage, run in store.runs().items() if stage != context.run.stage}
    dropped = {Reason.UNREADABLE.value: len(written) - len(good)} if len(good) < len(written) else {}
    this = Run(
        "publish", context.run.run_id, context.run.recipe, context.run.inputs, {}, len(ids), len(good), dropped, {}
    )
    embedded = runs["embed"].metrics
    manifest = write_release_files(
        uri,
        good.select(INDEX_SCHEMA.names).cast(INDEX_SCHEMA),
        _shards(good),
        {**runs, "publish": this},
        {stage: run.recipe for stage, run in {**runs, "publish": this}.items()},
        {name: embedded[name]["digest"] for name in sorted(embedded)},
        Safety(),
        recipe.name,
    )
    _replace(filesystem, partial_release, release)
    metrics = {"shards": len(manifest.shards), "bytes": manifest.image_bytes, "merkle_root": manifest.merkle_root}
    return Outcome(len(ids), rows, metrics)


def _selected(context: Context) -> DataFrame:
    """One row a selected image: where its bytes lie and what its metadata will say."""
    spark, store = context.spark, context.store
    selection = store.frame(spark, schema.SELECTION).select("image_id", "collection", "source", "cluster")
    kept = store.kept(spark, "retrieve").select("image_id")
    images = store.frame(spark, schema.IMAGES)
    screened = store.frame(spark, schema.SCREENED).select("image_id", "format", "width", "height")
    sightings = (
        store.frame(spark, schema.SIGHTINGS)
        .groupBy("image_id")
        .agg(
            F.array_sort(F.collect_set("url")).alias("urls"),
            F.array_sort(F.collect_set("page_url")).alias("pages"),
            F.array_sort(F.collect_set("path")).alias("paths"),
            F.array_sort(F.array_distinct(F.flatten(F.collect_list("rights")))).alias("rights"),
        )
    )
    return (
        kept.join(selection, "image_id").join(images, "image_id").join(screened, "image_id").join(sightings, "image_id")
    )


def _write_group(group: pa.Table, store_uri: str, release_uri: str) -> pa.Table:
    """Write one shard and describe its images; an image whose bytes are not what they were is left out and named."""
    rows = group.sort_by("position").to_pylist()
    name = shard_name(rows[0]["number"])
    samples: list[Sample] = []
    failed: list[dict[str, Any]] = []
    with Store(store_uri).shard_reader() as read:
        for row in rows:
            try:
                data = read(row["shard"], row["offset_bytes"], row["size_bytes"])
            except OSError as error:
                failed.append({"image_id": row["image_id"], "error": f"{row['shard']}: {error.strerror}"})
                continue
            if image_id(data) != row["image_id"]:
                changed = "its bytes are no longer those that were indexed"
                failed.append({"image_id": row["image_id"], "error": f"{row['shard']}: {changed}"})
                continue
            extension = _EXTENSIONS.get(row["format"], row["format"].lower())
            samples.append((row["image_id"], extension, data, _metadata(row)))
    if not samples:
        return pa.Table.from_pylist(failed, schema=_WRITTEN)
    filesystem, folder = fsspec.core.url_to_fs(release_uri)
    attempt = f"{folder}/.{name}.{uuid.uuid4().hex}.part"  # another attempt at this shard may still be writing
    with filesystem.open(attempt, "wb") as file:
        hashing = _Hashing(file)
        members = write_shard(hashing, samples)
    filesystem.mv(attempt, f"{folder}/{name}")
    about = {row["image_id"]: row for row in rows}
    index = [
        {
            **member._asdict(),
            "image_id": sample[0],
            "shard": name,
            "source": about[sample[0]]["collection"],
            "cluster": about[sample[0]]["cluster"],
            "blurred": 0,
            "shard_bytes": hashing.size_bytes,
            "shard_sha256": hashing.digest.hexdigest(),
        }
        for sample, member in zip(samples, members, strict=True)
    ]
    return pa.Table.from_pylist(index + failed, schema=_WRITTEN)


def _metadata(row: dict[str, Any]) -> dict[str, Any]:
    own = ("image_id", "urls", "pages", "paths", "rights", "cluster", "width", "height")
    return {**{key: row[key] for key in own}, "set": row["collection"], "method": row["source"], "blurred": []}


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
    filesystem, release = fsspec.core.url_to_fs(config.release)
    sources = config.sources
    others = {"store": config.store, **sources.images, **sources.collections}
    others |= {f"sources.pages[{i}]": root for i, root in enumerate(sources.pages)}
    for name, root in others.items():
        other = base_folder(root) if name != "store" else fsspec.core.url_to_fs(root)[1]
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
    version=2,
    after="retrieve",
    writes=lambda _: (),
    run=run,
    is_whole=is_whole,
)

if __name__ == "__main__":
    main(STAGE)
