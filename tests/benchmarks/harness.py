"""Ours beside its peers, in turn in one run: a warm-up, rounds, medians, a table, one JSON object as the last line.

Seconds of two runs differ with whatever else the machine does; the ratio of two measurements that follow each other
differs less. So a speedup is taken round by round, and its spread over the rounds is told with it.
"""

import argparse
import json
import math
import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil

OURS = "ours"
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Timing:
    """What every contender took and returned.

    Attributes:
        seconds: by contender, one value a round.
        results: by contender, of the last round.
    """

    seconds: Mapping[str, list[float]]
    results: Mapping[str, Any]

    @property
    def rounds(self) -> int:
        """Number of measured rounds."""
        return len(self.seconds[OURS])

    def median_s(self, name: str = OURS) -> float:
        """Median seconds over the rounds."""
        return median(self.seconds[name])

    def speedup(self, peer: str) -> dict[str, float]:
        """``speedup_<peer>``: the peer's seconds over ours of the same round; their median, ``_min`` and ``_max``."""
        rounds = zip(self.seconds[peer], self.seconds[OURS], strict=True)
        ratios = [theirs / ours for theirs, ours in rounds]
        key = f"speedup_{peer}"
        return {key: median(ratios), f"{key}_min": min(ratios), f"{key}_max": max(ratios)}

    def speedups(self) -> dict[str, float]:
        """The keys of :meth:`speedup` for every peer."""
        return {key: value for peer in self.seconds if peer != OURS for key, value in self.speedup(peer).items()}

    def table(self) -> str:
        """Seconds by contender, and how much faster ours is."""
        lines = [f"{'':<16}{'median s':>10}{'min s':>10}{'max s':>10}  ours faster by (min to max)"]
        for name, seconds in self.seconds.items():
            line = f"{name:<16}{median(seconds):>10.4f}{min(seconds):>10.4f}{max(seconds):>10.4f}"
            if name != OURS:
                middle, low, high = self.speedup(name).values()
                line += f"  {middle:.2f} ({low:.2f} to {high:.2f})"
            lines.append(line)
        return "\n".join(lines)


def parser(module: str, description: str, example: str, rounds: int = 5) -> argparse.ArgumentParser:
    """The command line that all benchmarks share; ``example`` is the options of a typical call."""
    command = f"python -m {module}"
    made = argparse.ArgumentParser(
        prog=command,
        description=description,
        epilog=f"example: {command} {example}",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("--rounds", type=int, default=rounds, help="measured rounds, after one that is not")
    return made


def measure(
    contenders: Mapping[str, Callable[[], Any]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    before: Callable[[str], Any] = lambda _: None,
) -> Timing:
    """Run every contender once unmeasured, then all in turn, ``rounds`` times.

    Args:
        contenders: ours under the name ``ours``, and its peers.
        rounds: at least 1.
        clock: seconds.
        before: called with a contender's name before each of its runs; the time that it takes counts for nobody.

    Raises:
        ValueError: no round.
    """
    if rounds < 1:
        raise ValueError(f"--rounds {rounds}: give 1 or more")
    for name, run in contenders.items():
        before(name)
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    results: dict[str, Any] = {}
    for _ in range(rounds):
        for name, run in contenders.items():
            before(name)
            start = clock()
            result = run()
            seconds[name].append(clock() - start)
            results[name] = result
    return Timing(seconds, results)


def peak_rss_bytes(function: Callable[..., Any], *args: Any) -> int:
    """The most resident memory of a new process that does nothing but call ``function(*args)``.

    Args:
        function: of the top level of a module.
        args: small; what is large is made inside.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_of_call, (function, args))


def _peak_of_call(function: Callable[..., Any], args: tuple[Any, ...]) -> int:
    function(*args)
    return own_peak_rss_bytes()


def own_peak_rss_bytes() -> int:
    """The most resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would hold what the parent had resident when it started this process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def finish(name: str, timing: Timing, keys: Mapping[str, Any]) -> None:
    """Print the table and, as the last line, one JSON object: name, hardware, commit, rounds, the keys."""
    print(timing.table())
    head = {"name": name, "hardware": hardware(), "commit": commit(), "rounds": timing.rounds}
    print(json.dumps(head | rounded(keys)))


def rounded(value: Any) -> Any:
    """Four digits of every float in nested mappings; one that is not finite becomes None, since JSON has no other."""
    if isinstance(value, Mapping):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return value


def hardware() -> dict[str, Any]:
    """CPU model, the cores this process may use, and memory in bytes."""
    return {"cpu": _cpu_model(), "cores": _num_cores(), "memory_bytes": psutil.virtual_memory().total}


def commit() -> str | None:
    """The commit of this checkout, ``-dirty`` where tracked files differ from it; None outside of one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_model() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
