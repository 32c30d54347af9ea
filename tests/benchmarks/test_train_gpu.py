"""The benchmark of training on a GPU, as far as a CPU can run it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from conf import entry_point
from tests.benchmarks.train_gpu import Setting, main, peak_of, recipe_of, step_flops
from tests.benchmarks.train_step import random_batch

ROOT = Path(__file__).parents[2]
TINY = ["--device", "cpu", "--arch", "vit_nano", "--batch", "2", "--prototypes", "64"]
QUICK = ["--updates", "1", "--rounds", "1", "--workers", "0"]


def test_the_script_runs_by_itself_and_keeps_its_result(tmp_path):
    command = [sys.executable, "-m", "tests.benchmarks.train_gpu", *TINY, *QUICK]
    done = subprocess.run(
        [*command, "--out", str(tmp_path), "--peak-tflops", "1"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["name"], told["device"], told["compiled"]) == ("train_gpu", "cpu", False)
    assert told["images_per_s"] > 0
    assert told["mfu"] == pytest.approx(told["tflops"], rel=1e-3)
    assert told["peak_bytes"] > 1e8
    assert 0 <= told["data_wait_share"] < 1
    kept = json.loads((tmp_path / "train_gpu_cpu.json").read_text())
    assert kept.items() <= told.items()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so_and_how_to_try_it(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["train_gpu"])
    with pytest.raises(SystemExit) as ended:
        entry_point(main)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: no CUDA device is visible")
    assert "--device cpu" in said


def test_operations_are_those_that_torch_counts():
    from training.schedules import at
    from training.train import Trainer

    setting = Setting("vit_nano", 4, 256, "cpu", 1)
    recipe = recipe_of(setting)
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"drop_path": 0.0})})
    trainer, batch = Trainer(recipe), random_batch(recipe)
    with FlopCounterMode(display=False) as counter:
        trainer.update(batch, at(recipe, 1))
    found, expected = counter.get_total_flops(), step_flops(recipe)
    again = 0.15  # backward computes scores of attention and prototypes again, which do not count as work
    assert expected < found < (1 + again) * expected


def test_the_peak_is_that_of_the_longest_name_known():
    assert peak_of("NVIDIA A100-SXM4-80GB") == 312
    assert peak_of("NVIDIA H100 PCIe") == 756
    assert peak_of("NVIDIA H100 80GB HBM3") == 989
    assert peak_of("NVIDIA L40S") == 362
    assert peak_of("NVIDIA GeForce RTX 3060") is None
    assert peak_of(None) is None
