"""Embed on GPU machines: what the embed stage planned for, as an array of jobs; needs neither Spark nor Java.

The stage, run with runtime.embed.by=array, leaves a plan in the store and asks for this command; run again when the
jobs have ended, it adds what they wrote to the table. What a job leaves that was killed or cut off by its limit is done
when SLURM puts it back into the queue, or when this command is given again: units that are done stay done.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem
from tqdm import tqdm

from conf import entry_point
from curation.descriptors.loading import load_embedder
from curation.descriptors.plan import Plan, Unit, embed_unit, is_done, pending, plans
from curation.descriptors.worker import Effort
from curation.store import Store, locate

EXAMPLE = """examples:
  python -m curation.descriptors.array runs/lvd/store --cluster slurm --jobs 16 --gpus 1 --threads 16 --partition gpu
  python -m curation.descriptors.array runs/lvd/store --cluster debug        this process, one job
"""


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m curation.descriptors.array",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("store", help="a store whose embed stage was run with runtime.embed.by=array")
    parser.add_argument("--cluster", choices=("slurm", "local", "debug"), default="slurm", help="default: %(default)s")
    parser.add_argument("--jobs", type=int, default=1, help="of the array; each loads the model once")
    parser.add_argument("--threads", type=int, default=8, help="of a job: cores that decode; default: %(default)s")
    parser.add_argument("--gpus", type=int, default=0, help="of a job")
    parser.add_argument("--timeout-min", type=int, default=24 * 60, help="of a job; default: %(default)s")
    parser.add_argument("--partition", help="of SLURM")
    parser.add_argument(
        "--logs",
        type=Path,
        help="folder that this machine and the jobs' share, for their output; default: in the store",
    )
    arguments = parser.parse_args()
    for name in ("jobs", "threads"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name} {getattr(arguments, name)}: give 1 or more")
    store = Store(arguments.store)
    found = plans(store)
    if not found:
        raise ValueError(f"{store.uri}: no plan is there; run the embed stage with runtime.embed.by=array first")
    for plan in found:
        left = pending(store, plan)
        print(f"{plan.table}: {len(left)} of {len(plan.units)} units to do, of {plan.num_images:,} images", flush=True)
        if left:
            submit(store, plan, left, arguments)
    return 0


def submit(store: Store, plan: Plan, left: Sequence[Unit], arguments: argparse.Namespace) -> None:
    """Hand the units to jobs, every n-th to one; wait for them unless SLURM runs them.

    Raises:
        ValueError: a job failed.
    """
    import submitit

    num_jobs = min(arguments.jobs, len(left))
    shares = [left[start::num_jobs] for start in range(num_jobs)]
    work = partial(embed_units, store.uri, plan.key, threads=arguments.threads)
    if arguments.cluster == "debug":
        for share in shares:
            work(share)
        return
    executor = submitit.AutoExecutor(folder=logs_of(store, arguments.logs), cluster=arguments.cluster)
    executor.update_parameters(
        name="openlvd-embed",
        timeout_min=arguments.timeout_min,
        cpus_per_task=arguments.threads,
        gpus_per_node=arguments.gpus,
        slurm_partition=arguments.partition,
    )
    jobs = executor.map_array(Checkpointed(work), shares)
    print(f"{len(jobs)} jobs, {jobs[0].job_id} to {jobs[-1].job_id}; their output is in {executor.folder}", flush=True)
    if arguments.cluster == "slurm":
        return
    failed = [job for job in jobs if job.exception() is not None]
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(jobs)} jobs failed; {failed[0].paths.stderr} says why. "
            "The same command does what they left"
        )


def logs_of(store: Store, logs: Path | None) -> Path:
    """The folder for the jobs' code and output, which must be one of a file system.

    Raises:
        ValueError: none is given, and the store is not in one.
    """
    filesystem, root = locate(store.uri)
    if logs is None and not isinstance(filesystem, LocalFileSystem):
        raise ValueError(
            f"{store.uri} is in no file system that jobs can write their output to; give --logs a folder that this "
            "machine and the jobs' share"
        )
    return logs or Path(root) / "logs" / "jobs"


class Checkpointed:
    """What a job runs; submitit puts it back into the queue when its time is up or it is pre-empted."""

    def __init__(self, work: partial[Effort]) -> None:
        self._work = work

    def __call__(self, units: Sequence[Unit]) -> Effort:
        """Do the units."""
        return self._work(units)

    def checkpoint(self, units: Sequence[Unit]) -> object:
        """What to submit in this job's place: itself, since done units are passed over."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, units)


def embed_units(store_uri: str, key: str, units: Sequence[Unit], threads: int) -> Effort:
    """Do the units of a plan that nobody has done, and say where the time went.

    Raises:
        ValueError: the plan is void, or the model cannot be loaded.
        OSError: a shard cannot be read.
    """
    store = Store(store_uri)
    plan = next((plan for plan in plans(store) if plan.key == key), None)
    if plan is None:
        raise ValueError(f"{store.uri}: the plan {key} is not valid any more; run the embed stage again")
    embedder, total = load_embedder(plan.spec), Effort()
    if embedder.digest != plan.digest:
        raise ValueError(
            f"{plan.table}: the model has the digest {embedder.digest[:16]} here and {plan.digest[:16]} in the plan; "
            "run this command with the release of openlvd that planned, or the stage again with this one"
        )
    with tqdm(unit=" images", disable=not sys.stderr.isatty()) as bar:
        for unit in units:
            if not is_done(store, plan, unit):
                total.add(**embed_unit(store, plan, unit, embedder, threads).values())
            bar.update(unit.num_images)
    shares = ", ".join(f"{name.removesuffix('_share')} {share:.0%}" for name, share in total.shares().items())
    print(f"{plan.table}: {total.images:,} images, {total.failed:,} without a vector; {shares}", flush=True)
    return total


if __name__ == "__main__":
    entry_point(main)
