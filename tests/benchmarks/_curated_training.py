"""The same recipe trained on different selections, and the k-NN accuracy that its probe ends with."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.ablations import probed


@dataclass(frozen=True)
class Training:
    """How every subset is trained on.

    Attributes:
        recipe: of ``training.launch``, with a probe.
        steps: of every run.
        at_once: runs beside each other, which share the cores.
        train: labelled pictures that the probe looks for neighbours among, the same for all.
        test: those it asks for.
    """

    recipe: str
    steps: int
    at_once: int
    train: Path
    test: Path


def accuracies(runs: Mapping[str, tuple[Path, int]], out: Path, training: Training) -> dict[str, float]:
    """Train every run, or go on with it, and read its last k-NN top-1.

    Args:
        runs: name -> (folder of pictures, seed); the name becomes that of the run's folder.
        out: where the run folders go.
        training: what all have in common.

    Raises:
        ValueError: a run failed.
    """
    threads = max((os.cpu_count() or 1) // training.at_once, 1)

    def one(name: str) -> float:
        pictures, seed = runs[name]
        print(f"training on {name}", flush=True)
        overrides = [
            f"data.release={pictures}",
            f"recipe.seed={seed}",
            f"recipe.steps={training.steps}",
            f"runtime.probe.every_steps={training.steps}",
            f"runtime.probe.train={training.train}",
            f"runtime.probe.test={training.test}",
        ]
        return probed(training.recipe, overrides, out / name, threads)[-1][1]

    out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(training.at_once) as pool:
        return dict(zip(runs, pool.map(one, runs), strict=True))


def linked(files: Sequence[Path], folder: Path) -> Path:
    """A folder of links to files, numbered; what was there goes."""
    for old in folder.glob("*") if folder.is_dir() else ():
        old.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(files):
        (folder / f"{number:06d}{path.suffix}").symlink_to(path.absolute())
    return folder
