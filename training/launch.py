"""Start a training run: ``python -m training.launch RECIPE [key=value ...]``."""

import argparse
import os
import sys

from conf import entry_point, load
from training.config import TrainConfig

EXAMPLE = """examples:
  python -m training.launch conf/training/demo.yaml recipe.steps=50 output=runs/short
  python -m training.launch conf/training/demo.yaml runtime.processes=2
  python -m training.launch conf/training/demo.yaml runtime.launcher=submitit runtime.slurm.partition=gpu

A run that was stopped continues with the same command, with any number of processes; a finished one says so and does
nothing. SIGTERM, SIGUSR1 and SIGUSR2 make a run save what it has and end with exit code 75; a SLURM job that is sent
one of the latter two, as it is ahead of its time limit, also queues itself again.
"""


def main() -> int:
    """Parse, then train here, in several processes, or in a job."""
    parser = argparse.ArgumentParser(
        prog="python -m training.launch",
        description="Train DINOv2 features on a release or a folder of images.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", help="a YAML file, such as conf/training/demo.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="values that replace the recipe's")
    arguments = parser.parse_args()
    settings = load(TrainConfig, arguments.recipe, arguments.overrides)
    runtime = settings.runtime
    if "WORLD_SIZE" in os.environ:  # one of several, started by spawn or torchrun
        return run(settings)
    if runtime.launcher == "submitit":
        from training.slurm import submit

        return submit(settings)
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        raise ValueError(
            f"SLURM_NTASKS={os.environ['SLURM_NTASKS']}: srun would start as many runs, not one; use "
            "runtime.launcher=submitit, which makes its own job, or one task and runtime.processes"
        )
    if runtime.processes > 1:
        from training.spawn import spawn

        return spawn(
            [sys.executable, "-m", "training.launch", arguments.recipe, *arguments.overrides], runtime.processes
        )
    return run(settings)


def run(settings: TrainConfig) -> int:
    """Train as this process; returns the exit code."""
    from training.preemption import EXIT_CODE, StoppedError
    from training.work import is_first, work

    try:
        return work(settings)
    except StoppedError as stopped:
        if is_first():
            print(stopped, flush=True)
        return EXIT_CODE


if __name__ == "__main__":
    entry_point(main)
