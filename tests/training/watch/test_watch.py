"""A whole run with everything that watches it, beside one with nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils._python_dispatch import TorchDispatchMode

from conf import ConfigError, load
from tests.training.commands import assert_close, rows, run, weights
from tests.training.small import make_release, settings
from training import run_folder
from training.config import TrainConfig
from training.data.loader import Batches
from training.data.release import Release
from training.schedules import at
from training.train import Trainer, train
from training.watch.alarms import Alarms
from training.watch.page import alarm_spans, build, points
from training.watch.probe import KNNProbe
from training.watch.records import CLOCK
from training.watch.watch import Watch

WHOLE = {"arch": "vit_nano", "patch_size": 8, "image_size": 32, "layer_scale": 1.0}
NOTHING = {"health_every_steps": 0}


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    return make_release(tmp_path_factory.mktemp("data") / "release")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Path:
    """Three colours with a little noise, 7 train and 3 test pictures of each, one of them in a folder of its own."""
    root, rng = tmp_path_factory.mktemp("labelled"), np.random.default_rng(0)
    for split, count in (("train", 7), ("test", 3)):
        for name, colour in {"blue": (20, 40, 200), "green": (20, 200, 40), "red": (200, 30, 20)}.items():
            for i in range(count):
                path = root / split / name / ("deep" if i == 0 else "") / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.array(colour) + rng.integers(-15, 15, (40, 52, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return root


def everything(labelled: Path, **runtime) -> dict:
    probe = {"every_steps": 2, "train": str(labelled / "train"), "test": str(labelled / "test"), "k": 5}
    return {"health_every_steps": 2, "pictures_every_steps": 4, "tensorboard": True, "probe": probe, **runtime}


@pytest.fixture(scope="module")
def watched(release, labelled, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "watched"
    train(settings(release, output, {"model": WHOLE}, everything(labelled)))
    return output


def test_watching_changes_no_bit_of_what_is_learnt(release, watched, tmp_path):
    train(settings(release, tmp_path, {"model": WHOLE}, NOTHING))
    own = ("health_", "probe_")
    seen = [{key: value for key, value in row.items() if not key.startswith(own)} for row in rows(watched)]
    assert seen == rows(tmp_path)
    one, two = weights(watched), weights(tmp_path)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert (watched / "model.json").read_bytes() == (tmp_path / "model.json").read_bytes()


def test_rows_hold_what_is_due_at_their_step_and_the_clock(watched):
    found = list(run_folder.rows(watched / "metrics.jsonl"))
    for row in found:
        assert ("health_effective_rank" in row) == ("probe_knn_top1" in row) == (row["step"] % 2 == 0)
        assert set(CLOCK) <= set(row)
        assert 0 <= row["data_wait"] <= 1
        assert row["mfu"] > 0
        assert row["peak_memory_bytes"] > 1e8
    assert found[-1]["probe_knn_top1"] > 0.6
    assert found[-1]["health_features"] == 8  # two steps of four images
    names = {f"step_{step:08d}_{name}.png" for step in (1, 4, 6) for name in ("crops", "patches")}
    assert {path.name for path in (watched / "pictures").iterdir()} == names


def test_two_processes_see_what_one_sees(release, labelled, watched, tmp_path):
    code, out, err = run(
        settings(release, tmp_path / "two", {"model": WHOLE}, everything(labelled, processes=2, tensorboard=False))
    )
    assert (code, err) == (0, "")
    assert "MFU" in out
    assert_close(watched, tmp_path / "two", 1e-3)
    assert sorted(p.name for p in (tmp_path / "two/pictures").iterdir()) == sorted(
        p.name for p in (watched / "pictures").iterdir()
    )


class NoReading(TorchDispatchMode):
    """Fails where a number is taken from a tensor to the host, which on a GPU waits for all that was asked of it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default, "a number was read"
        assert func is not torch.ops.aten.nonzero.default, "a size depends on numbers"
        return func(*args, **(kwargs or {}))


def test_no_number_is_read_in_a_step(release, tmp_path):
    made = settings(release, tmp_path, {"model": WHOLE}, {"health_every_steps": 2})
    trainer = Trainer(made.recipe)
    data = Batches(Release(release), made.recipe)
    watch = Watch(trainer, Release(release), made.runtime, tmp_path)
    for step in range(2):
        batch = data[step]
        with NoReading():
            trainer.update(batch, at(made.recipe, step))
            found = watch.look(batch)
    assert "health_effective_rank" in found  # the second step is that of a panel


def scalars(output: Path) -> dict[str, dict[int, float]]:
    events = EventAccumulator(str(output / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    found = {}
    for tag in events.Tags()["scalars"]:
        steps = [event.step for event in events.Scalars(tag)]
        assert steps == sorted(set(steps)), tag
        found[tag] = {event.step: event.value for event in events.Scalars(tag)}
    found["pictures"] = {event.step: event.height for event in events.Images("crops")}
    return found


def test_tensorboard_shows_what_the_rows_say_also_of_a_run_that_was_stopped(
    release, labelled, watched, tmp_path, monkeypatch
):
    whole = Trainer.update

    def fails(self, batch, now):
        if self.step == 5:  # two steps past the checkpoint of step 3, of which the fourth is already in the events
            raise KeyboardInterrupt
        return whole(self, batch, now)

    made = settings(release, tmp_path, {"model": WHOLE}, everything(labelled))
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", fails)
        with pytest.raises(KeyboardInterrupt):
            train(made)
    train(made)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    found = scalars(tmp_path)
    assert set(found["pictures"]) == {1, 4, 6}
    assert found.keys() == scalars(watched).keys()
    for tag, key in {
        "loss/total": "loss",
        "loss/ibot": "loss_ibot",
        "health/largest_logit": "health_largest_logit",
        "probe/knn_top1": "probe_knn_top1",
        "gradients/backbone": "grad_norm_backbone",
        "schedule/lr": "lr",
    }.items():
        expected = {row["step"]: row[key] for row in rows(tmp_path, health=True) if key in row}
        assert found[tag] == pytest.approx(expected, rel=1e-6), tag


def test_alarms_are_told_written_and_not_repeated_by_a_run_that_goes_on(release, tmp_path, capsys, monkeypatch):
    """A learning rate that no run survives; the alarms of steps that are done again are those of the first time."""
    monkeypatch.setattr("training.watch.alarms.SETTLED", 10)
    recipe = {"steps": 60, "optimiser": {"base_lr": 2000.0, "warmup_steps": 30, "clip_norm": 1e6}, "model": WHOLE}
    runtime = {"health_every_steps": 1, "checkpoint_every_steps": 20, "max_nonfinite_steps": 100}
    made = settings(release, tmp_path / "run", recipe, runtime)
    train(made)
    written = list(run_folder.rows(tmp_path / "run/alarms.jsonl"))
    said = capsys.readouterr().out
    assert len(written) >= 1
    for event in written:
        assert f"step {event['step']}: {'ALARM' if event['begins'] else 'alarm'} {event['alarm']}" in said
    for name in ("model.json", "checkpoints/step_00000060/whole.json"):
        (tmp_path / "run" / name).unlink()
    train(made)
    assert "going back to the one before" in capsys.readouterr().out
    assert list(run_folder.rows(tmp_path / "run/alarms.jsonl")) == written
    again = Alarms(30)
    judged = [event for row in run_folder.rows(tmp_path / "run/metrics.jsonl") for event in again.judge(row)]
    assert [event._asdict() for event in judged] == written


def test_a_probe_that_cannot_be_made_is_refused_before_the_first_step(release, labelled, tmp_path):
    def refused(**changes):
        probe = {**everything(labelled)["probe"], **changes}
        train(settings(release, tmp_path / "run", {"model": WHOLE}, {"probe": probe}))

    with pytest.raises(ValueError, match=r"runtime\.probe\.train = .*nowhere'?: no images in folders of classes"):
        refused(train=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"runtime\.probe\.k = 22: .* only 21 images; use runtime\.probe\.k=21"):
        refused(k=22)
    with pytest.raises(ValueError, match=r"the class 'deep' is not in runtime\.probe\.train"):
        refused(test=str(labelled / "test/blue"))
    with pytest.raises(ValueError, match=r"runtime\.probe\.size = 37 is no multiple of the patches of 8 px; use 40"):
        refused(size=37)
    assert not (tmp_path / "run/metrics.jsonl").exists() or not (tmp_path / "run/metrics.jsonl").read_text()


def test_the_probe_answers_at_once_whatever_the_batch(release, labelled, tmp_path):
    made = settings(release, tmp_path, {"model": WHOLE}, everything(labelled))
    trainer = Trainer(made.recipe)
    answers = [
        KNNProbe(made.runtime.probe, made.recipe, size, workers, trainer.processes).top1(trainer.model).item()
        for size, workers in ((1, 0), (8, 2), (64, 1))
    ]
    assert answers == [1.0, 1.0, 1.0]  # colours, through a random network


def test_the_probe_brings_pictures_to_the_size_that_is_asked_for(release, labelled, tmp_path, monkeypatch):
    made = settings(release, tmp_path, {"model": WHOLE}, everything(labelled))
    trainer, sides = Trainer(made.recipe), set()
    encode = trainer.model.teacher_features
    monkeypatch.setattr(trainer.model, "teacher_features", lambda images: sides.add(images.shape[1]) or encode(images))
    for size, side in ((None, made.recipe.crops.global_size), (48, 48)):
        sides.clear()
        probe = made.runtime.probe.model_copy(update={"size": size})
        KNNProbe(probe, made.recipe, 8, 1, trainer.processes).top1(trainer.model)
        assert sides == {side}


def test_wandb_that_is_absent_is_one_sentence(release, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(ValueError, match=r"runtime\.wandb = 'mine': wandb is not installed; pip install wandb"):
        train(settings(release, tmp_path, {"model": WHOLE}, {"wandb": "mine"}))


def test_the_page_shows_the_run_and_nothing_from_elsewhere(watched, tmp_path):
    page = build(watched)
    for words in ("Finished.", "of 6 steps", "k-NN probe, top-1", "None so far.", "Effective rank", "Learning rate"):
        assert words in page
    assert page.count("data:image/png;base64,") == 6
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert "https://" not in page
    hostile = tmp_path / "<b>run"
    hostile.mkdir()
    lines = [{"step": 3, "loss": None, "images_per_s": 1, "mfu": 0.1, "mfu_of": "<i>x", "data_wait": 0}]
    (hostile / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"torn')
    (hostile / "alarms.jsonl").write_text(
        json.dumps({"step": 3, "alarm": "divergence_loss", "begins": True, "why": "<script>"}) + "\n"
    )
    page = build(hostile)
    assert "Not finished." in page
    assert "until now" in page
    assert "not finite" in page
    assert not [words for words in ("<b>run", "<i>x", "<script>") if words in page]
    with pytest.raises(ValueError, match=r"holds no metrics\.jsonl with a step in it"):
        build(tmp_path)


def test_spans_of_alarms():
    events = [
        {"step": 5, "alarm": "a", "begins": True, "why": "x"},
        {"step": 7, "alarm": "b", "begins": True, "why": "y"},
        {"step": 9, "alarm": "a", "begins": False, "why": "z"},
        {"step": 12, "alarm": "b", "begins": True, "why": "of the next phase"},
    ]
    found = [(span.alarm, span.first, span.last, span.why) for span in alarm_spans(events)]
    assert found == [("a", 5, 9, "x"), ("b", 7, 12, "y"), ("b", 12, None, "of the next phase")]
    steps, values = points([{"step": 1, "v": 2}, {"step": 2, "v": None}, {"step": 3}, {"step": 4, "v": 3}], "v", 10)
    assert (steps.tolist(), values.tolist()) == ([1, 4], [20, 30])


def test_an_unknown_key_of_a_probe_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="every_steps"):
        load(TrainConfig, "conf/training/demo.yaml", ["runtime.probe.every=3", "runtime.probe.train=a"])
