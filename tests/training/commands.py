"""The trainer as a user starts it: a command, its exit code, and what it leaves."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from training.config import TrainConfig
from training.watch.records import CLOCK

ROOT = Path(__file__).parents[2]


def start(settings: TrainConfig, **options) -> subprocess.Popen:
    """Start ``training.launch``; its recipe lies beside the run folder."""
    output = Path(settings.output)
    recipe = output.with_name(f"{output.name}.yaml")
    recipe.write_text(settings.model_dump_json())
    environment = {key: value for key, value in os.environ.items() if key not in ("WORLD_SIZE", "SLURM_NTASKS")}
    return subprocess.Popen(
        [sys.executable, "-m", "training.launch", str(recipe)],
        cwd=ROOT,
        env={**environment, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def run(settings: TrainConfig) -> tuple[int, str, str]:
    return finish(start(settings))


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    """Until it holds, or the process has ended, or it takes too long (then the process is killed)."""
    end = time.monotonic() + seconds
    while not condition() and process.poll() is None:
        if time.monotonic() > end:
            process.kill()
            raise AssertionError(f"waited {seconds} s in vain: {finish(process)}")
        time.sleep(0.02)


def rows(output: Path, *, health: bool = False) -> list[dict]:
    """Metrics without the clock and, unless asked for, the health panel, whose window begins anew with a process."""
    found = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in row.items() if key not in CLOCK and (health or not key.startswith("health_"))}
        for row in found
    ]


def reached(output: Path, step: int) -> bool:
    """Whether the metrics of this step are on the disk."""
    path = output / "metrics.jsonl"
    return path.is_file() and path.read_text().count("\n") >= step


EXPORTS = ("teacher_backbone.safetensors", "student_backbone.safetensors")


def weights(output: Path) -> dict[str, torch.Tensor]:
    """Both backbones."""
    return {f"{name}.{key}": value for name in EXPORTS for key, value in load_file(output / name).items()}


def assert_equal(one: Path, two: Path) -> None:
    """The same metrics and weights, to the last bit."""
    assert rows(one) == rows(two)
    for name in (*EXPORTS, "model.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def assert_close(one: Path, two: Path, tolerance: float = 1e-4) -> None:
    """The same metrics and weights, but for the order of sums."""
    for a, b in zip(rows(one), rows(two), strict=True):
        for key, value in a.items():
            torch.testing.assert_close(value, b[key], rtol=tolerance, atol=tolerance, msg=lambda m, k=key: f"{k}: {m}")
    for name, value in weights(one).items():
        torch.testing.assert_close(value, weights(two)[name], rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")
