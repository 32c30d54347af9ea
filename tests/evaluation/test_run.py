import hashlib
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from conf import load
from evaluation import dataset, features
from evaluation.config import Evaluation
from evaluation.run import evaluate
from training.config import Architecture
from training.pretrained import build

ARCHITECTURE = Architecture(arch="vit_nano", patch_size=8, image_size=32)


@pytest.fixture
def recipe(tmp_path):
    """Three classes of one colour each with a little noise: raw pixels cannot fail on them."""
    rng = np.random.default_rng(3)
    colours = {"blue": (20, 40, 200), "green": (20, 200, 40), "red": (200, 30, 20)}
    for split, count in (("train", 8), ("test", 5)):
        for name, colour in colours.items():
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.array(colour) + rng.integers(-15, 15, (40, 48, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    weights = save({name: tensor.contiguous() for name, tensor in build(ARCHITECTURE, seed=9).state_dict().items()})
    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights.safetensors").write_bytes(weights)
    about = {
        "architecture": ARCHITECTURE.model_dump(mode="json"),
        "weights": "weights.safetensors",
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "input": {"size": 32, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    }
    (tmp_path / "model/model.json").write_text(json.dumps(about))
    return [
        f"model={tmp_path / 'model'}", f"data={tmp_path / 'data'}", f"output={tmp_path / 'out'}",
        "protocol.k=[1,5,100]", "protocol.resize=36", "protocol.crop=32", "runtime.batch_size=7",
    ]  # fmt: skip


def config(overrides) -> Evaluation:
    return load(Evaluation, "conf/evaluation/demo.yaml", overrides)


def test_every_record_agrees_with_the_predictions_it_rests_on(recipe, tmp_path):
    evaluate(config(recipe))
    document = json.loads((tmp_path / "out/results.json").read_text())
    predictions = pq.read_table(tmp_path / "out/predictions.parquet").to_pandas()
    assert {(r["model"], r["k"]) for r in document["records"]} == {
        (model, k) for model in ("trained", "random_init", "raw_pixels") for k in (1, 5)
    }
    for record in document["records"]:
        rows = predictions[(predictions.model == record["model"]) & (predictions.k == record["k"])]
        assert record["n"] == len(rows) == 15
        assert record["value"] == (rows.label == rows.predicted).mean()
        assert record["interval"][0] <= record["value"] <= record["interval"][1]
    assert [r["value"] for r in document["records"] if r["model"] == "raw_pixels"] == [1.0, 1.0]
    weights = (tmp_path / "model/weights.safetensors").read_bytes()
    assert document["records"][0]["model_sha256"] == hashlib.sha256(weights).hexdigest()


def test_a_second_call_does_nothing_and_another_protocol_runs(recipe, tmp_path, capsys):
    evaluate(config(recipe))
    before = (tmp_path / "out/results.json").stat().st_mtime_ns
    capsys.readouterr()
    evaluate(config(recipe))
    assert "nothing to do" in capsys.readouterr().out
    assert (tmp_path / "out/results.json").stat().st_mtime_ns == before
    evaluate(config([*recipe, "protocol.temperature=0.1"]))
    assert (tmp_path / "out/results.json").stat().st_mtime_ns != before


def test_batch_size_changes_no_prediction(recipe, tmp_path):
    evaluate(config(recipe))
    evaluate(config([*recipe, "runtime.batch_size=64", f"output={tmp_path / 'again'}"]))
    # the votes may differ in the last bit, as a matrix product does with its shape
    first, again = (pq.read_table(tmp_path / name / "predictions.parquet") for name in ("out", "again"))
    assert first.drop(["share"]).equals(again.drop(["share"]))
    np.testing.assert_allclose(first["share"], again["share"], atol=1e-5)


def test_random_initialisation_sees_the_image_and_follows_its_seed():
    like = build(ARCHITECTURE)
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32))
    with torch.inference_mode():
        first, again, other = (features.random_init(like, seed, "cpu").features(images) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert torch.nn.functional.cosine_similarity(first[0], first[1], dim=0) < 0.999


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model=/nowhere", "no such file"),
        ("protocol.crop=30", "protocol.crop = 30: must be a multiple of the model's patch size 8; try 32"),
        ("protocol.k=[100]", r"only 24 images; pass protocol.k=\[24\]"),
    ],
)
def test_what_cannot_be_evaluated_is_named(recipe, override, message):
    with pytest.raises(ValueError, match=message):
        evaluate(config([*recipe, override]))


def test_an_image_that_does_not_decode_stops_the_evaluation(recipe, tmp_path):
    (tmp_path / "data/test/red/0.png").write_bytes(b"not a picture")
    assert len(dataset.read(tmp_path / "data").test.paths) == 15
    with pytest.raises(ValueError, match=r"red/0\.png: cannot be decoded"):
        evaluate(config(recipe))


def test_a_device_that_is_none_or_is_not_there_is_named(recipe, monkeypatch):
    with pytest.raises(ValueError, match=r"runtime\.device.*'cpu' or 'cuda'"):
        config([*recipe, "runtime.device=gpu"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no CUDA device is visible"):
        evaluate(config([*recipe, "runtime.device=cuda"]))
