"""Start a training run: ``python -m training.launch RECIPE [key=value ...]``."""

import argparse
import os
from pathlib import Path

from conf import entry_point, load
from training.config import TrainConfig

EXAMPLE = """example:
  python -m training.launch conf/training/demo.yaml recipe.steps=50 output=runs/short

A run that was stopped continues with the same command; a finished one says so and does nothing.
"""


def main() -> int:
    """Parse, read, train or submit."""
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
    for variable in ("WORLD_SIZE", "SLURM_NTASKS"):
        if int(os.environ.get(variable, "1")) > 1:
            raise ValueError(f"{variable}={os.environ[variable]}: training runs in one process so far; start one")
    if settings.runtime.launcher == "submitit":
        return submit(settings)
    return run(settings)


def run(settings: TrainConfig) -> int:
    """Train in this process."""
    from training.train import train

    print(f"finished: {train(settings)}")
    return 0


def submit(settings: TrainConfig) -> int:
    """Hand the run to submitit: a SLURM job, or a process of this machine, which is waited for."""
    import submitit

    slurm = settings.runtime.slurm
    executor = submitit.AutoExecutor(folder=Path(settings.output) / "jobs", cluster=slurm.cluster)
    executor.update_parameters(
        name="openlvd-train",
        timeout_min=slurm.timeout_min,
        cpus_per_task=slurm.cpus_per_task,
        gpus_per_node=slurm.gpus_per_node,
        slurm_partition=slurm.partition,
    )
    job = executor.submit(run, settings)
    print(f"job {job.job_id}: its output goes to {job.paths.stdout}", flush=True)
    if slurm.cluster == "slurm":
        return 0
    if job.exception() is not None:
        raise ValueError(
            f"job {job.job_id} failed; the last lines of {job.paths.stderr} and {job.paths.stdout} say why"
        )
    print(f"finished: {Path(settings.output) / 'model.json'}")
    return 0


if __name__ == "__main__":
    entry_point(main)
