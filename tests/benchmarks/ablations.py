"""The parts of the recipe, each switched off once at the same budget: k-NN accuracy over the steps.

Every run is ``python -m training.launch`` of the same file with one override more, so a second call goes on where the
first stopped. The recipe's probe gives the curves; raw pixels and a random network of the same shape stand
beside them under the probe's protocol. One seed each: the interval is that of the test pictures alone.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from conf import entry_point, load
from evaluation.intervals import wilson
from tests.benchmarks import harness
from training.config import TrainConfig
from training.dinov2 import DINOv2
from training.models.vit import Features
from training.processes import ALONE
from training.watch.probe import KNNProbe

SWITCHED_OFF = {
    "whole recipe": (),
    "without KoLeo": ("recipe.losses.koleo_weight=0",),
    "without iBOT": ("recipe.losses.ibot_weight=0", "recipe.heads.ibot=null"),
    "softmax, not Sinkhorn": ("recipe.losses.centering=softmax", "recipe.losses.queue=0"),
    "tied heads": ("recipe.heads.ibot=null",),
}
Curve = list[tuple[int, float]]


def main() -> int:
    """Train, or continue, all of them; then the table, the picture and the figures."""
    parser = harness.parser(
        "tests.benchmarks.ablations",
        "k-NN accuracy of a recipe while it trains, and with each of its parts switched off.",
        "--recipe conf/training/vitt_cifar.yaml --at-once 2 recipe.steps=3400",
        rounds=1,
    )
    parser.add_argument("--recipe", default="conf/training/vitt_cifar.yaml", help="has runtime.probe")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for all runs")
    parser.add_argument("--out", default="runs/ablations", help="folder of the run folders and of knn.svg")
    parser.add_argument("--at-once", type=int, default=1, help="runs beside each other, which share the cores")
    options = parser.parse_args()
    out = Path(options.out)
    settings = load(TrainConfig, options.recipe, options.overrides)
    probe = settings.runtime.probe
    if probe is None:
        raise ValueError(f"{options.recipe}: runtime.probe is not set; its accuracies are what this compares")
    missing = [folder for folder in (settings.data.release, probe.train, probe.test) if not Path(str(folder)).exists()]
    if missing:
        raise ValueError(
            f"{missing[0]}: no such folder; pass data.release=, runtime.probe.train= and runtime.probe.test="
        )
    out.mkdir(parents=True, exist_ok=True)
    threads = max((os.cpu_count() or 1) // options.at_once, 1)
    start = time.perf_counter()
    with ThreadPoolExecutor(options.at_once) as pool:

        def trained(name: str) -> Curve:
            print(f"{name}: {out / slug(name)}", flush=True)
            overrides = [*options.overrides, *SWITCHED_OFF[name]]
            return probed(options.recipe, overrides, out / slug(name), threads)

        curves = dict(zip(SWITCHED_OFF, pool.map(trained, SWITCHED_OFF), strict=True))
    seconds = time.perf_counter() - start
    baselines = untrained(settings)
    num_test = sum(1 for path in Path(probe.test).glob("*/*") if path.is_file())
    print(table(curves, baselines, num_test))
    picture(curves, baselines, out / "knn.svg")
    keys: dict[str, Any] = {
        "recipe": options.recipe,
        "overrides": options.overrides,
        "num_test": num_test,
        "knn": {name: curve[-1][1] for name, curve in curves.items()} | baselines,
        "curves": curves,
    }
    harness.finish("ablations", harness.Timing({harness.OURS: [seconds]}, {}), keys)
    return 0


def probed(recipe: str, overrides: Sequence[str], folder: Path, threads: int) -> Curve:
    """Train with a probe, or go on, to the end; its (step, k-NN accuracy). What it prints goes to ``<folder>.log``.

    Raises:
        ValueError: the run failed.
    """
    command = [sys.executable, "-m", "training.launch", recipe, *overrides, f"output={folder}"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with (folder.parent / f"{folder.name}.log").open("a") as log:
        code = subprocess.run(command, env=environment, stdout=log, stderr=log, check=False).returncode
    if code:
        raise ValueError(f"{folder.name}: training ended with {code}; {log.name} says why")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["probe_knn_top1"]) for row in rows if "probe_knn_top1" in row]


class Untrained:
    """What a probe asks a model for, of features that nothing was learnt for."""

    def __init__(self, model: DINOv2, *, raw: bool) -> None:
        self._model, self._raw = model, raw

    @torch.no_grad()
    def teacher_features(self, images: torch.Tensor) -> Features:
        """Pixels, or what the random network makes of them, as class tokens [B, D]."""
        if not self._raw:
            return self._model.teacher_features(images)
        pixels = F.normalize(images.flatten(1).float() - 127.5, dim=-1)
        return Features(pixels, pixels[:, None, :], pixels[:, None, :])


def untrained(settings: TrainConfig) -> dict[str, float]:
    """The probe's accuracy of raw pixels and of the network before its first step."""
    recipe, probe = settings.recipe, settings.runtime.probe
    assert probe is not None
    torch.manual_seed(recipe.seed)
    model = DINOv2(recipe)
    made = KNNProbe(probe, recipe, 64, 1, ALONE)
    return {
        name: made.top1(Untrained(model, raw=raw)).item()  # type: ignore[arg-type]
        for name, raw in (("random network", False), ("raw pixels", True))
    }


def table(curves: dict[str, Curve], baselines: dict[str, float], num_test: int) -> str:
    """The last accuracy of each run and the 95 % interval."""
    lines = [f"{'':<24}{'steps':>8}{'k-NN':>8}   95 %"]
    last = {name: curve[-1] for name, curve in curves.items()} | {name: (0, x) for name, x in baselines.items()}
    for name, (step, accuracy) in last.items():
        low, high = wilson(round(accuracy * num_test), num_test)
        lines.append(f"{name:<24}{step:>8}{accuracy:>8.1%}   {low:.1%} to {high:.1%}")
    return "\n".join(lines)


def picture(curves: dict[str, Curve], baselines: dict[str, float], path: Path) -> None:
    """All curves over the steps, baselines as lines across."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axis = figure.subplots()
    for name, curve in curves.items():
        steps, accuracies = zip(*curve, strict=True)
        axis.plot(steps, [100 * x for x in accuracies], marker="o", markersize=3, label=name)
    for (name, accuracy), style in zip(baselines.items(), (":", "--"), strict=True):
        axis.axhline(100 * accuracy, color="grey", linestyle=style, label=name)
    axis.set_xlabel("steps")
    axis.set_ylabel("k-NN accuracy, %")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    figure.savefig(path)
    figure.savefig(path.with_suffix(".png"), dpi=120)


def slug(name: str) -> str:
    """A folder's name."""
    return "_".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


if __name__ == "__main__":
    entry_point(main)
