"""What the recipe's detectors find in the images that screening would keep, and what follows from it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from curation import schema
from curation.safety.base import NSFW, UNSEEN, Detector
from curation.safety.findings import as_evidence, finding_rows, record
from curation.safety.loading import load_detector
from curation.schema import Reason, Table
from curation.store import Store
from spark_jobs.config import Screen
from spark_jobs.near_exact import place
from spark_jobs.stage import Context
from spark_jobs.tables import canonical

_OF_IMAGES = pa.schema(
    [
        ("image_id", pa.string()),
        ("found_reason", pa.string()),
        ("found_score", pa.float64()),
        ("found_threshold", pa.float64()),
        ("found_evidence", pa.string()),
    ]
)
_FINDINGS = ("label", "x", "y", "width", "height", "score")


@dataclass(frozen=True)
class Looked:
    """What came of it.

    Attributes:
        verdicts: one row for an image in which something was found: found_reason, null for an image to keep;
            found_score, the highest NSFW score, and found_threshold; found_evidence.
        models: the digests of the detectors, joined by blanks; None without a detector.
        metrics: ``detectors``, who looked, and ``detections``, at how many images and what each found.
    """

    verdicts: DataFrame
    models: str | None
    metrics: dict[str, Any]


def look_at(context: Context, images: DataFrame, table: Table = schema.DETECTIONS) -> Looked:
    """Write what the detectors find in the images that are to be kept.

    Args:
        context: of the stage.
        images: image_id, shard, offset_bytes, size_bytes.
        table: with the columns of ``detections``.

    Raises:
        ValueError: a detector cannot be loaded.
    """
    spark, store, recipe = context.spark, context.store, context.config.recipe.screen
    detectors = _loaded(recipe)
    if not detectors:
        store.write(table, table.schema.empty_table(), context.run)
        return Looked(spark.createDataFrame([], from_arrow_schema(_OF_IMAGES)), None, {})
    uri, kinds = store.uri, from_arrow_schema(table.schema)

    def find(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        cv2.setNumThreads(1)  # the tasks are the parallelism
        mine = _loaded(recipe)
        with Store(uri).shard_reader() as read:
            for batch in batches:
                encoded = ((row["image_id"], read(*place(row))) for row in batch.to_pylist())
                rows = list(finding_rows(encoded, mine, recipe.max_pixels))
                yield pa.RecordBatch.from_pylist(rows, schema=schema.DETECTIONS.schema)

    placed = images.select("image_id", "shard", "offset_bytes", "size_bytes")
    spread = placed.repartition(context.config.runtime.partitions, "image_id")
    store.write(table, spread.sortWithinPartitions("shard", "offset_bytes").mapInArrow(find, kinds), context.run)
    findings = store.frame(spark, table)
    return Looked(
        verdicts=_verdicts(findings, recipe.nsfw_threshold),
        models=" ".join(detector.digest for detector in detectors.values()),
        metrics={
            "detectors": {name: record(detector) for name, detector in detectors.items()},
            "detections": _counts(findings, detectors, images.count()),
        },
    )


def _loaded(recipe: Screen) -> dict[str, Detector]:
    return {name: load_detector(spec) for name, spec in sorted(recipe.detectors.items())}


def _verdicts(findings: DataFrame, nsfw_threshold: float | None) -> DataFrame:
    def judge(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            rows = [_verdict(row["image_id"], row["found"], nsfw_threshold) for row in batch.to_pylist()]
            yield pa.RecordBatch.from_pylist(rows, schema=_OF_IMAGES)

    grouped = findings.groupBy("image_id").agg(F.collect_list(F.struct(*_FINDINGS)).alias("found"))
    return grouped.mapInArrow(judge, from_arrow_schema(_OF_IMAGES))


def _verdict(image_id: str, found: list[dict[str, Any]], nsfw_threshold: float | None) -> dict[str, Any]:
    verdict: dict[str, Any] = {"image_id": image_id}
    if any(row["label"] == UNSEEN for row in found):
        evidence = "it decodes at a reduced scale only"
        return verdict | {"found_reason": Reason.TRUNCATED.value, "found_evidence": evidence}
    verdict["found_evidence"] = canonical(as_evidence(found))
    if scores := [row["score"] for row in found if row["label"] == NSFW]:
        highest = float(f"{max(scores):.6g}")  # as a float32 is meant
        unsafe = nsfw_threshold is not None and highest >= nsfw_threshold
        verdict |= {"found_score": highest, "found_threshold": nsfw_threshold}
        verdict["found_reason"] = Reason.NSFW.value if unsafe else None
    return verdict


def _counts(findings: DataFrame, detectors: dict[str, Detector], num_images: int) -> dict[str, dict[str, int]]:
    """By detector: the images it looked at, those it found a box in, and the boxes."""
    boxes = findings.where("x is not null").groupBy("detector")
    counted = boxes.agg(F.countDistinct("image_id").alias("images_with_boxes"), F.count("*").alias("boxes")).collect()
    found = {row["detector"]: {key: row[key] for key in ("images_with_boxes", "boxes")} for row in counted}
    return {
        name: {"images": num_images, "images_with_boxes": 0, "boxes": 0} | found.get(name, {}) for name in detectors
    }
