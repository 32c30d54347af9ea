"""A run as a SLURM job, through submitit: it queues itself again when its time is up, and continues."""

import signal
from pathlib import Path
from typing import Any

import submitit

from training.config import TrainConfig
from training.preemption import EXIT_CODE, StoppedError
from training.work import work


class Job:
    """What a task of the job calls; submitit makes it again, as it is, for the job's next turn."""

    def __call__(self, settings: TrainConfig) -> int:
        """Train; on a signal ahead of the time limit, save, then let submitit queue the job again.

        SIGTERM alone queues nothing: it comes from a user's ``scancel``, or from a preemption after which SLURM itself
        queues the job again.
        """
        environment = submitit.JobEnvironment()
        if environment.num_tasks > 1:
            submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        try:
            code = work(settings)
        except StoppedError as stopped:
            print(stopped, flush=True)
            if stopped.signal_number == signal.SIGTERM:
                code = EXIT_CODE
            elif environment.global_rank:
                code = 0  # the first one speaks for the job, and must not be ended before it has
            else:  # submitit's own handler is back: it keeps the call, queues the job again and exits
                signal.raise_signal(getattr(signal, f"SIG{environment.USR_SIG}"))
        if code:
            raise SystemExit(code)
        return 0

    def checkpoint(self, settings: TrainConfig) -> submitit.helpers.DelayedSubmission:
        """The next turn: the same call, which finds what this one saved."""
        return submitit.helpers.DelayedSubmission(self, settings)


def submit(settings: TrainConfig) -> int:
    """Hand the run to submitit: a SLURM job, or processes of this machine, which are waited for."""
    slurm = settings.runtime.slurm
    limits: dict[str, Any] = {f"{slurm.cluster}_max_num_timeout": slurm.requeues}
    executor = submitit.AutoExecutor(folder=Path(settings.output) / "jobs", cluster=slurm.cluster, **limits)
    executor.update_parameters(
        name="openlvd-train",
        nodes=slurm.nodes,
        tasks_per_node=settings.runtime.processes,
        timeout_min=slurm.timeout_min,
        cpus_per_task=slurm.cpus_per_task,
        gpus_per_node=slurm.gpus_per_node,
        slurm_partition=slurm.partition,
        slurm_signal_delay_s=slurm.signal_delay_s,
        slurm_srun_args=["--kill-on-bad-exit=1"],
    )
    job = executor.submit(Job(), settings)
    print(f"job {job.job_id}: its output goes to {job.paths.stdout}", flush=True)
    if slurm.cluster == "slurm":
        return 0
    if job.exception() is not None:
        raise ValueError(
            f"job {job.job_id} failed; the last lines of {job.paths.stderr} and {job.paths.stdout} say why"
        )
    print(f"finished: {Path(settings.output) / 'model.json'}")
    return 0
