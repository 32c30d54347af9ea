"""The detectors inside the screening stage, on pictures of which one shows a face and one is unsafe to a classifier."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

import conf
from conf import load
from curation.images.ids import image_id
from curation.schema import Reason
from spark_jobs.config import CurationConfig
from spark_jobs.tables import Tables
from tests.curation.safety.onnx_files import colour_classifier

pytestmark = pytest.mark.spark


def screened(run_stages, folder, pictures, *overrides, recipe="conf/curation/own.yaml"):
    """A store whose pool, the given pictures by name, has been screened; and their ids by name."""
    images = folder / "pictures"
    images.mkdir(parents=True)
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(images / f"{name}.png")
    paths = [f"store={folder / 'store'}", f"release={folder / 'release'}", f"sources.images.some={images}"]
    config = load(CurationConfig, recipe, [*paths, *overrides])
    run_stages(config, "screen")
    return Tables(config.store), {name: image_id((images / f"{name}.png").read_bytes()) for name in pictures}


def ledger(store):
    rows = store.table("decisions").to_pylist()
    return {row["image_id"]: row for row in rows if row["stage"] == "screen"}


@pytest.fixture(scope="module")
def pictures():
    data = pytest.importorskip("skimage.data")
    rng = np.random.default_rng(0)
    red = rng.integers(0, 90, (96, 96, 3), dtype=np.uint8) + np.array([160, 0, 0], np.uint8)
    return {"face": data.astronaut(), "coffee": data.coffee(), "red": red, "tiny": data.coffee()[:20, :20]}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """Overrides that add a classifier for which red is unsafe."""
    data = colour_classifier(np.array([[0, 0, 0], [9, -9, -9]]), np.array([0, 0]), size=8)
    path = tmp_path_factory.mktemp("weights") / "red.onnx"
    path.write_bytes(data)
    spec = {"adapter": "onnx_classifier", "weights": str(path), "sha256": hashlib.sha256(data).hexdigest()}
    spec |= {"licence": "CC0-1.0", "version": "7", "size": 8, "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
    return [f"recipe.screen.detectors.red={json.dumps(spec)}", "recipe.screen.nsfw_threshold=0.9"]


@pytest.fixture(scope="module")
def looked_at(run_stages, pictures, classifier, tmp_path_factory):
    return screened(run_stages, tmp_path_factory.mktemp("detections"), pictures, *classifier)


def test_a_face_has_its_box_in_the_table_and_in_the_ledger(looked_at):
    store, ids = looked_at
    faces = [row for row in store.table("detections").to_pylist() if row["label"] == "face"]
    assert {row["image_id"] for row in faces} == {ids["face"]}
    assert any(abs(r["x"] + r["width"] / 2 - 225) < 20 and abs(r["y"] + r["height"] / 2 - 117) < 20 for r in faces)
    row = ledger(store)[ids["face"]]
    assert row["decision"] == "keep"
    evidence = json.loads(row["evidence"])
    assert [box[:4] for box in evidence["face"]] == [[r[key] for key in ("x", "y", "width", "height")] for r in faces]


def test_what_scores_too_high_is_dropped_with_score_and_threshold(looked_at):
    store, ids = looked_at
    row = ledger(store)[ids["red"]]
    assert (row["decision"], row["reason"], row["threshold"]) == ("drop", Reason.NSFW, 0.9)
    assert row["score"] > 0.9
    kept = ledger(store)[ids["coffee"]]
    assert (kept["decision"], kept["threshold"]) == ("keep", 0.9)
    assert kept["score"] < 0.9
    assert json.loads(kept["evidence"]) == {"nsfw": [[kept["score"]]]}


def test_what_was_refused_before_was_not_looked_at(looked_at):
    store, ids = looked_at
    row = ledger(store)[ids["tiny"]]
    assert (row["reason"], row["model"]) == (Reason.TOO_SMALL, None)
    assert ids["tiny"] not in store.table("detections")["image_id"].to_pylist()


def test_the_run_says_who_looked_and_at_how_much(looked_at):
    store, ids = looked_at
    run = store.runs()["screen"]
    assert list(run.metrics["detectors"]) == ["opencv", "red"]
    red = run.metrics["detectors"]["red"]
    assert {key: red[key] for key in ("name", "version", "licence", "labels")} == {
        "name": "onnx_classifier", "version": "7", "licence": "CC0-1.0", "labels": ["nsfw"]
    }  # fmt: skip
    digests = [detector["digest"] for detector in run.metrics["detectors"].values()]
    assert ledger(store)[ids["face"]]["model"] == " ".join(digests)
    assert set(store.table("detections")["model"].to_pylist()) == set(digests)
    counted = run.metrics["detections"]
    assert counted["red"] == {"images": 3, "images_with_boxes": 0, "boxes": 0}
    assert counted["opencv"]["images"] == 3
    assert counted["opencv"]["images_with_boxes"] == 1


def test_without_a_detector_nobody_says_anything(run_stages, pictures, tmp_path):
    """No row, no model and no metric: what reads them says NOT EVALUATED, and never zero."""
    shipped = Path(conf.__file__).parent / "curation" / "own.yaml"
    tree = OmegaConf.load(shipped)
    del tree.recipe.screen.detectors
    recipe = tmp_path / "bare.yaml"
    OmegaConf.save(tree, recipe)
    store, ids = screened(run_stages, tmp_path, {"face": pictures["face"]}, recipe=recipe)
    assert store.table("detections").num_rows == 0
    assert {"detectors", "detections"}.isdisjoint(store.runs()["screen"].metrics)
    row = ledger(store)[ids["face"]]
    assert (row["decision"], row["model"], row["evidence"]) == ("keep", None, None)
