"""Connections to checked addresses, under a deadline and a cap, kept open for the next request to the same host."""

import functools
import io
import select
import socket
import ssl
import threading
import time
from typing import Any

from curation.fetch.addresses import Resolver
from curation.fetch.options import FetchOptions
from curation.fetch.outcome import FetchError
from curation.schema import Reason

_BLOCK_BYTES = 1 << 16
_FRAMING_BYTES = 8 << 20  # allowed for headers and chunk sizes on top of the body
_MOST_IDLE = 256  # connections; each is an open file
_IDLE_S = 10.0  # a connection that waited longer is closed, as most servers would

Endpoint = tuple[str, str, int]  # scheme, host, port


class Connection:
    """A connected socket, whose operations share one deadline, however small the pieces that trickle in.

    It is what :class:`http.client.HTTPResponse` takes for a socket.
    """

    def __init__(self, connected: socket.socket, max_bytes: int) -> None:
        self._socket = connected
        self._raw = _DeadlineReader(connected, max_bytes)
        self._reader = _KeptReader(self._raw, _BLOCK_BYTES)
        self.idle_since = 0.0

    def begin(self, deadline: float) -> None:
        """Allow one more exchange, until ``deadline``."""
        self._raw.begin(deadline)

    def sendall(self, data: bytes) -> None:
        """Send all of it, within the deadline."""
        self._socket.settimeout(seconds_left(self._raw.deadline))
        self._socket.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        """The one stream of answers."""
        assert mode == "rb", mode
        return self._reader

    def is_quiet(self) -> bool:
        """Whether the server has said nothing since its last answer ended, not even that it hangs up."""
        if self._reader.has_more():
            return False
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


class ConnectionPool:
    """Opens connections, and keeps those that can be used again.

    Args:
        options: ``connections_per_host`` are kept of one host.
    """

    def __init__(self, options: FetchOptions) -> None:
        self._options = options
        self._resolver = Resolver(options)
        self._idle: dict[Endpoint, list[Connection]] = {}
        self._num_idle = 0
        self._lock = threading.Lock()

    def take(self, endpoint: Endpoint) -> Connection | None:
        """One that was given back and is still good, or None."""
        now = time.monotonic()
        while True:
            with self._lock:
                kept = self._idle.get(endpoint)
                if not kept:
                    return None
                connection = kept.pop()
                self._num_idle -= 1
                if not kept:
                    del self._idle[endpoint]
            if now - connection.idle_since < _IDLE_S and connection.is_quiet():
                return connection
            connection.close()

    def give_back(self, endpoint: Endpoint, connection: Connection) -> None:
        """Keep it for the next request, or close the one that has waited at the longest unused host."""
        connection.idle_since = time.monotonic()
        with self._lock:
            kept = self._idle.setdefault(endpoint, [])
            kept.append(connection)
            self._num_idle += 1
            surplus = None
            if len(kept) > self._options.connections_per_host:
                surplus = kept.pop(0)
            elif self._num_idle > _MOST_IDLE:
                oldest = next(iter(self._idle))
                surplus = self._idle[oldest].pop(0)
                if not self._idle[oldest]:
                    del self._idle[oldest]
            if surplus is not None:
                self._num_idle -= 1
        if surplus is not None:
            surplus.close()

    def close(self) -> None:
        """Close what is kept."""
        with self._lock:
            kept, self._idle, self._num_idle = self._idle, {}, 0
        for connections in kept.values():
            for connection in connections:
                connection.close()

    def connect(self, endpoint: Endpoint, deadline: float) -> Connection:
        """Connect to a host at the very address that was checked.

        Raises:
            FetchError: PRIVATE_ADDRESS, CONNECTION_FAILED, TIMED_OUT.
            TimeoutError: the deadline has passed.
        """
        scheme, host, port = endpoint
        candidates = self._resolver.addresses(host, port, seconds_left(deadline))
        failure: OSError = OSError("no address")
        for number, (address, address_port) in enumerate(candidates):
            # A dead first address must not use up the time of the others.
            seconds = seconds_left(deadline) / (len(candidates) - number)
            try:
                plain = socket.create_connection((address, address_port), timeout=seconds)
            except OSError as error:
                failure = error
                continue
            return Connection(_secured(plain, scheme, host, deadline), self._options.max_bytes)
        if isinstance(failure, TimeoutError):
            raise failure
        raise _connection_failed(failure)


def seconds_left(deadline: float) -> float:
    """Until the deadline.

    Raises:
        TimeoutError: none.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def too_many_bytes(max_bytes: int) -> FetchError:
    """Of a body that is longer than it may be."""
    return FetchError(Reason.TOO_MANY_BYTES, f"more than {max_bytes} bytes")


def _secured(plain: socket.socket, scheme: str, host: str, deadline: float) -> socket.socket:
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if scheme != "https":
            return plain
        plain.settimeout(seconds_left(deadline))  # for the TLS handshake as a whole
        return _tls().wrap_socket(plain, server_hostname=host)
    except TimeoutError:
        plain.close()
        raise
    except OSError as error:
        plain.close()
        raise _connection_failed(error) from error


def _connection_failed(error: OSError) -> FetchError:
    match error:
        case ssl.SSLCertVerificationError():
            message = f"certificate refused: {error.verify_message}"
        case ssl.SSLError():
            message = "TLS handshake failed"
        case ConnectionRefusedError():
            message = "connection refused"
        case _:
            message = "no connection"
    return FetchError(Reason.CONNECTION_FAILED, message)


@functools.lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class _DeadlineReader(io.RawIOBase):
    """Reads within the deadline, and never much more than a body may have.

    The second matters because http.client reads without a limit where a chunk claims a negative size.
    """

    def __init__(self, connected: socket.socket, max_bytes: int) -> None:
        self._socket = connected
        self._max_bytes = max_bytes
        self._left = 0
        self.deadline = 0.0
        self.is_silenced = False

    def begin(self, deadline: float) -> None:
        self.deadline = deadline
        self._left = 2 * self._max_bytes + _FRAMING_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self.is_silenced:
            return 0
        self._socket.settimeout(seconds_left(self.deadline))
        received = self._socket.recv_into(buffer)
        self._left -= received
        if self._left < 0:
            raise too_many_bytes(self._max_bytes)
        return received


class _KeptReader(io.BufferedReader):
    """Stays open when http.client closes it at the end of an answer, since the next one comes out of it too."""

    raw: _DeadlineReader

    def close(self) -> None:
        """Nothing: the connection is what is closed."""

    def has_more(self) -> bool:
        """Whether bytes beyond the last answer have been received already."""
        self.raw.is_silenced = True  # else peek would wait for more
        try:
            return bool(self.peek(1))
        finally:
            self.raw.is_silenced = False
