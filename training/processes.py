"""The processes of one run: what each is told by its environment, and the few things that they exchange."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

T = TypeVar("T")
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Processes:
    """This process among those of its run. Alone it needs no process group, and every exchange is the identity.

    Args:
        device: where this process computes, by default the CPU.
        rank: its number, from 0.
        count: of processes, on all machines.
        mesh: of all processes; None where there is one.
    """

    device: torch.device = _CPU
    rank: int = 0
    count: int = 1
    mesh: DeviceMesh | None = None

    @property
    def is_first(self) -> bool:
        """Whether this one speaks and keeps the run folder."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes, in a tensor of its own."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def logsumexp(self, scores: Tensor) -> Tensor:
        """Log-sum-exp over the rows [B, K] of all processes, as [1, K]."""
        local = scores.logsumexp(0, keepdim=True)
        if self.mesh is None:
            return local
        highest = self._reduced(local, dist.ReduceOp.MAX)
        return highest + self.total((local - highest).exp()).log()

    def gather(self, rows: Tensor) -> Tensor:
        """The rows [B, ...] of all processes, in the order of their ranks, as [count B, ...]; without gradient."""
        rows = rows.detach()
        if self.mesh is None:
            return rows
        every = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(self.count)]
        dist.all_gather(every, rows.contiguous())
        return torch.cat(every)

    def highest(self, here: int) -> int:
        """The highest of all processes' numbers; through the host, so that no device is waited for."""
        return here if self.mesh is None else int(self._reduced(torch.tensor(here), dist.ReduceOp.MAX))

    def told(self, value: T) -> T:
        """The first process's value."""
        if self.mesh is None:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0, device=_CPU)
        return box[0]

    def wait(self) -> None:
        """Return when all processes have called this."""
        self.highest(0)

    def _reduced(self, values: Tensor, operation: Any) -> Tensor:
        if self.mesh is not None:
            values = values.clone()
            dist.all_reduce(values, operation)
        return values


ALONE = Processes()


def started() -> int:
    """How many processes the environment tells of (``WORLD_SIZE``, as torchrun and this package's launchers set it)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Meet the other processes of the run, of which the environment tells; alone, nothing is started.

    Args:
        device: ``cpu``, or ``cuda``: then each process of a machine takes one of its devices.
    """
    if started() == 1:
        yield Processes(device)
        return
    rank, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    if device.type == "cuda":
        device = torch.device("cuda", local % torch.cuda.device_count())
        torch.cuda.set_device(device)
    dist.init_process_group("gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl")
    yield Processes(device, rank, started(), init_device_mesh(device.type, (started(),)))
    dist.destroy_process_group()  # not after an error: others may be waiting, and the launcher ends them
