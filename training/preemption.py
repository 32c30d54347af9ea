"""Being asked to stop: the run saves what it has and leaves, and the same command continues it."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver

# SIGTERM ends a run; a scheduler sends one of the others ahead of its time limit
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
EXIT_CODE = os.EX_TEMPFAIL  # 75: not finished; try again


class StoppedError(Exception):
    """The run was asked to stop, and has saved all it had."""

    def __init__(self, step: int, signal_number: int) -> None:
        by = signal.Signals(signal_number).name
        super().__init__(f"stopped at step {step} by {by}, all saved; the same command continues here")
        self.signal_number = signal_number


class Request:
    """The signal by which this process was asked to stop, 0 where it was not; SIGTERM, the highest, stays."""

    signal_number = 0

    def _take(self, number: int, _: object) -> None:
        self.signal_number = max(self.signal_number, number)


@contextmanager
def listening(*, workers: bool) -> Iterator[Request]:
    """Take signals as requests from here on; afterwards they mean what they meant before.

    A scheduler signals all processes of a group. So that the loader's do not die of it, their server starts with the
    signals blocked, which its children inherit; none that comes meanwhile is lost to this process.

    Args:
        workers: whether processes of a ``forkserver`` will be started.
    """
    request = Request()
    before = {number: signal.signal(number, request._take) for number in SIGNALS}
    try:
        if workers:
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            try:
                forkserver.ensure_running()
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_group() -> None:
    """Take a worker out of its parent's process group, and let only a signal meant for itself end it."""
    os.setpgid(0, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
