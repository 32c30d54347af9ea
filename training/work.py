"""One process of a run, whoever started it."""

import os
import sys

import torch.distributed as dist

from training.config import TrainConfig
from training.spawn import LOST_ANOTHER
from training.train import train


def work(settings: TrainConfig) -> int:
    """Train as this process; returns 0, or the code that says that another process of the run has ended.

    Raises:
        StoppedError: a signal asked for it; all is saved.
    """
    try:
        path = train(settings)
    except RuntimeError as error:
        words = str(error).lower()
        if not dist.is_initialized() or not ("gloo" in words or "nccl" in words):
            raise
        print(f"another process of the run has ended: {str(error).splitlines()[0]}", file=sys.stderr)
        return LOST_ANOTHER
    if is_first():
        print(f"finished: {path}")
    return 0


def is_first() -> bool:
    """Whether this process speaks for the run."""
    return os.environ.get("RANK", "0") == "0"
