"""N processes of one command on this machine: started together, ended together."""

import os
import signal
import subprocess
import sys
import tempfile
import time

from torch.distributed import TCPStore

from training.preemption import EXIT_CODE, SIGNALS

LOST_ANOTHER = 76  # exit code of a process that ended because another did
GRACE_S = 5.0  # for the others to tell why they end, before they are made to
_POLL_S = 0.05


def spawn(command: list[str], count: int) -> int:
    """Run ``count`` processes of a command, each told by its environment which one it is, as torchrun does.

    The first speaks on this process's streams. Signals that ask a run to stop go on to all. When one fails, all end;
    what it last said is repeated.

    Returns:
        0; 75 where the run was asked to stop; or the exit code of the process that failed first, negative where it was
        a signal's number, as in ``subprocess``.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # they meet here
    environment = {
        "OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // count, 1)),
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # they join a store that exists
        "WORLD_SIZE": str(count),
    }
    said = [tempfile.TemporaryFile() for _ in range(1, count)]  # noqa: SIM115
    children: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _: object) -> None:
        for child in children:
            child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        for rank in range(count):
            own = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            stream = said[rank - 1] if rank else None
            children.append(subprocess.Popen(command, env=own, stdout=stream, stderr=stream))
        failed = _first_failure(children)
    finally:
        for child in children:
            child.kill()
            child.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
    if failed is None:
        return max(child.returncode for child in children)
    if failed:
        said[failed - 1].seek(0)
        words = said[failed - 1].read().decode(errors="replace").strip() or "it said nothing"
        print(f"process {failed} of {count} ended with {children[failed].returncode}: {words}", file=sys.stderr)
    return children[failed].returncode


def _first_failure(children: list[subprocess.Popen[bytes]]) -> int | None:
    """Wait until one fails, or all have succeeded or stopped when asked (None).

    One that ended because of another is no reason, as long as there may be a better one.
    """
    deadline = None
    while True:
        codes = [child.poll() for child in children]
        failures = [rank for rank, code in enumerate(codes) if code not in (None, 0, EXIT_CODE)]
        reasons = [rank for rank in failures if codes[rank] != LOST_ANOTHER]
        if failures and deadline is None:
            deadline = time.monotonic() + GRACE_S
        if None not in codes or (deadline and time.monotonic() > deadline):
            return next(iter(reasons or failures), None)
        time.sleep(_POLL_S)
