"""Whose turn it is: the URLs of a shard, each when its host may be asked again."""

import heapq
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit


class Turn(NamedTuple):
    """Leave to ask for one URL, now.

    Attributes:
        position: of the URL in its shard.
        failures: of it so far.
    """

    position: int
    failures: int


class Hosts:
    """When each host may be asked again; outlives the shards of a task."""

    def __init__(self) -> None:
        self.next_s: dict[str, float] = {}

    def forget(self, now: float) -> None:
        """Drop those that may be asked already."""
        self.next_s = {host: at for host, at in self.next_s.items() if at > now}


class Pace:
    """Lets threads ask hosts, each after a pause since the last request to it.

    Args:
        pause_s: seconds between two requests to a host.
        clock: seconds, monotonic.
        sleep: waits for so many seconds.
    """

    def __init__(
        self,
        pause_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._pause_s = pause_s
        self._clock = clock
        self._sleep = sleep
        self._hosts = Hosts()
        self._changing = threading.Lock()

    def wait(self, url: str) -> None:
        """Return when it is the turn of a normalised URL to be asked for, in the order of the calls."""
        name = urlsplit(url).hostname or ""
        with self._changing:
            now = self._clock()
            at = max(now, self._hosts.next_s.get(name, now))
            self._hosts.next_s[name] = at + self._pause_s
        if at > now:
            self._sleep(at - now)

    def forget(self) -> None:
        """Drop the hosts that may be asked already."""
        with self._changing:
            self._hosts.forget(self._clock())


class Turns:
    """Hands out the URLs of a shard to threads, none before its host's turn, and no host waits for another.

    Between two requests to a host lies at least its pause, and at most ``connections`` of its URLs are out at once.

    Args:
        urls: normalised.
        pause_s: seconds between two requests to a URL's host.
        connections: to one host at once.
        hosts: when they may be asked again; kept up to date.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        urls: Sequence[str],
        pause_s: Callable[[str], float],
        connections: int,
        hosts: Hosts,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._urls = urls
        self._pause_s = pause_s
        self._connections = connections
        self._hosts = hosts
        self._clock = clock
        self._changed = threading.Condition()
        self._out: dict[str, int] = {}
        self._offered: set[str] = set()
        self._ready: list[tuple[float, str]] = []  # a heap of hosts that may have one more URL out, at most once each
        self._waiting: dict[str, list[tuple[float, int, int]]] = {}  # heaps of (not before, position, failures)
        hosts.forget(clock())
        self._names = [urlsplit(url).hostname or "" for url in urls]
        for position, name in enumerate(self._names):
            self._waiting.setdefault(name, []).append((0.0, position, 0))
        for name in self._waiting:
            self._offer(name)

    def take(self) -> Turn:
        """The next URL, as soon as there is one whose turn it is. There must be one that waits."""
        with self._changed:
            while True:
                now, wait_s = self._clock(), None
                while self._ready:
                    at, name = self._ready[0]
                    due = self._due(name)
                    if due > at:  # the host was asked, or asked us to wait, since it was offered
                        heapq.heapreplace(self._ready, (due, name))
                    elif at <= now:
                        return self._give(name, now)
                    else:
                        wait_s = at - now
                        break
                self._changed.wait(wait_s)

    def due_s(self) -> float | None:
        """When the next URL may be asked for, or None where no host may have one more out."""
        with self._changed:
            return min((self._due(name) for name in self._offered), default=None)

    def again(self, position: int) -> None:
        """Wait until the host of a URL that is out may be asked once more."""
        with self._changed:
            name, now = self._names[position], self._clock()
            at = max(now, self._hosts.next_s.get(name, now))
            self._hosts.next_s[name] = at + self._pause_s(self._urls[position])
        if at > now:
            time.sleep(at - now)

    def done(self, position: int) -> None:
        """A URL has its answer."""
        with self._changed:
            self._back(position)

    def put_back(self, turn: Turn, pause_s: float, host_pause_s: float) -> None:
        """Try a URL again after a pause, and leave its whole host alone for another."""
        with self._changed:
            name, now = self._names[turn.position], self._clock()
            heapq.heappush(self._waiting.setdefault(name, []), (now + pause_s, turn.position, turn.failures + 1))
            self._leave_alone(name, now + host_pause_s)
            self._back(turn.position)

    def leave_alone(self, position: int, pause_s: float) -> None:
        """Do not ask the host of a URL for a while."""
        with self._changed:
            self._leave_alone(self._names[position], self._clock() + pause_s)

    def _leave_alone(self, name: str, until: float) -> None:
        self._hosts.next_s[name] = max(until, self._hosts.next_s.get(name, until))

    def _give(self, name: str, now: float) -> Turn:
        heapq.heappop(self._ready)
        self._offered.remove(name)
        _, position, failures = heapq.heappop(self._waiting[name])
        self._hosts.next_s[name] = now + self._pause_s(self._urls[position])
        self._out[name] = self._out.get(name, 0) + 1
        self._offer(name)
        return Turn(position, failures)

    def _back(self, position: int) -> None:
        name = self._names[position]
        self._out[name] -= 1
        self._offer(name)
        self._changed.notify_all()

    def _offer(self, name: str) -> None:
        if self._waiting[name] and name not in self._offered and self._out.get(name, 0) < self._connections:
            self._offered.add(name)
            heapq.heappush(self._ready, (self._due(name), name))

    def _due(self, name: str) -> float:
        return max(self._waiting[name][0][0], self._hosts.next_s.get(name, 0.0))
