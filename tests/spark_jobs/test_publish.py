"""Whom the release of the pocket web shows, and what publish refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from curation.images.decode import decode
from curation.release.blurring import Lookout, LookoutSpec
from curation.release.reader import ReleaseReader
from spark_jobs.publish import STAGE
from spark_jobs.stage import execute
from spark_jobs.tables import Tables
from tests.curation.audit.stored import put

pytestmark = pytest.mark.spark


def judge(release):
    manifest = release.manifest
    detectors = manifest.recipe["screen"]["detectors"]
    return Lookout(LookoutSpec.model_validate(
        {"detectors": detectors, "records": manifest.safety.model_dump()["detectors"], "labels": ["face"]}
    ))  # fmt: skip


def test_every_face_that_was_found_is_blurred_and_nothing_else_is_touched(finished):
    release = ReleaseReader(str(finished.release))
    again = judge(release)
    found = finished.store.table("detections", ["image_id"], pc.field("label") == "face")["image_id"].to_pylist()
    places = {row["image_id"]: row for row in finished.store.table("images").to_pylist()}
    blurred = {row["image_id"]: row["blurred"] for row in release.index.to_pylist() if row["blurred"]}
    assert blurred, "the pocket web shows a face"
    assert set(blurred) == set(found) & set(release.index["image_id"].to_pylist())
    for image in release:
        place = places[image.image_id]
        original = finished.store.read_image(place["shard"], place["offset_bytes"], place["size_bytes"])
        assert (image.data != original) == (image.image_id in blurred)
        if image.image_id in blurred:
            pixels = np.asarray(decode(image.data, 10**8).image)
            assert again.look(np.asarray(decode(original, 10**8).image))
            assert again.look(pixels) == []
            assert pixels.shape[:2] == (image.metadata["height"], image.metadata["width"])
            assert len(image.metadata["blurred"]) == blurred[image.image_id]


def test_the_manifest_counts_what_was_blurred_and_names_who_looked(finished):
    release = ReleaseReader(str(finished.release))
    safety, counts = release.manifest.safety, [n for n in release.index["blurred"].to_pylist() if n]
    assert (safety.blurred.images, safety.blurred.regions) == (len(counts), sum(counts))
    assert safety.that_find("face")
    assert safety.nsfw is None, "nobody looked, which is not zero"
    card = (finished.release / "README.md").read_text()
    assert f"{sum(counts)} regions in {len(counts)} images were blurred" in card
    assert "Unsafe content: not evaluated" in card


def test_the_ledger_says_what_was_blurred_and_by_whom(finished):
    release = ReleaseReader(str(finished.release))
    digests = {record.digest for record in release.manifest.safety.that_find("face").values()}
    ledger = {row["image_id"]: row for row in finished.store.decisions("publish").to_pylist()}
    for image in release:
        row = ledger[image.image_id]
        if image.metadata["blurred"]:
            assert json.loads(row["evidence"]) == {"blurred": image.metadata["blurred"]}
            assert set(row["model"].split()) == digests
        else:
            assert row["evidence"] is None


def test_a_detector_that_did_not_screen_the_images_does_not_judge_the_blur(finished, spark, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(Path(finished.config.store).parent, out)
    config = finished.config.model_copy(update={"store": str(out / "store"), "release": str(out / "other")})
    store = Tables(config.store)
    runs = store.table("runs").to_pylist()
    for row in runs:
        if row["stage"] == "screen":
            metrics = json.loads(row["metrics"])
            for record in metrics["detectors"].values():
                record["digest"] = "0" * 64
            row["metrics"] = json.dumps(metrics)
    put(Path(config.store), "runs", runs)
    with pytest.raises(ValueError, match=f"digest {'0' * 64} screened the images"):
        execute(STAGE, store, config, lambda: spark)
    assert not (out / "other").exists()
