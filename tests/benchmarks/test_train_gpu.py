"""The benchmark of training on a GPU, as far as a CPU can run it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conf import entry_point
from tests.benchmarks.train_gpu import main

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
