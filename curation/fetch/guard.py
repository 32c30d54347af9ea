"""One HTTP(S) request that cannot be led astray: checked addresses, and caps on bytes, seconds and redirects."""

import functools
import http.client
import io
import socket
import ssl
import time
from typing import Any
from urllib.parse import urljoin, urlsplit

from curation.fetch.addresses import addresses
from curation.fetch.options import FetchOptions
from curation.fetch.outcome import Fetched, FetchError
from curation.links.bodies import BodyError, BodyTooLargeError, decompress
from curation.links.rights import header_signals
from curation.links.urls import normalise
from curation.schema import Reason

_BLOCK_BYTES = 1 << 16
_FRAMING_BYTES = 8 << 20  # allowed for headers and chunk sizes on top of the body
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


def fetch(url: str, options: FetchOptions, truncate: bool = False) -> Fetched:
    """GET a URL.

    Each hop resolves its host once, refuses private addresses and connects to the very address that was checked.
    Proxies of the environment are not used, cookies are not kept. The body is asked for without compression.

    Args:
        url: http or https.
        options: limits and manners.
        truncate: return the first ``max_bytes`` of a longer body instead of failing.

    Raises:
        FetchError: anything but a complete body with a 2xx status.
    """
    deadline = time.monotonic() + options.timeout_s
    for _ in range(options.max_redirects + 1):
        target = _get(url, options, deadline, truncate)
        if isinstance(target, Fetched):
            return target
        url = target
    raise FetchError(Reason.TOO_MANY_REDIRECTS, f"more than {options.max_redirects} redirects")


def _get(url: str, options: FetchOptions, deadline: float, truncate: bool) -> Fetched | str:
    """One hop: the response, or the URL it redirects to."""
    try:
        url = normalise(url)
    except ValueError as error:
        raise FetchError(Reason.HTTP_ERROR, f"malformed address: {error}") from error
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        connection = _connect(parts.scheme, host, port, options, deadline)
    except TimeoutError as error:
        raise _timed_out(options) from error
    except OSError as error:
        raise FetchError(Reason.CONNECTION_FAILED, _connection_message(error)) from error
    try:
        response = _ask(connection, parts.path, parts.query, parts.netloc, options)
        if response.status in _REDIRECTS and (location := response.getheader("Location")):
            return _joined(url, location)
        return _read(response, url, options, truncate)
    except TimeoutError as error:
        raise _timed_out(options) from error
    finally:
        connection.close()


def _connect(scheme: str, host: str, port: int, options: FetchOptions, deadline: float) -> "_DeadlineSocket":
    candidates = addresses(host, port, options, _seconds_left(deadline))
    failure: OSError = OSError("no address")
    for number, (address, address_port) in enumerate(candidates):
        # A dead first address must not use up the time of the others.
        seconds = _seconds_left(deadline) / (len(candidates) - number)
        try:
            plain = socket.create_connection((address, address_port), timeout=seconds)
        except OSError as error:
            failure = error
            continue
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            plain.settimeout(_seconds_left(deadline))  # for the TLS handshake as a whole
            secured = _tls().wrap_socket(plain, server_hostname=host) if scheme == "https" else plain
        except BaseException:
            plain.close()
            raise
        return _DeadlineSocket(secured, deadline, options.max_bytes)
    raise failure


def _ask(
    connection: "_DeadlineSocket", path: str, query: str, authority: str, options: FetchOptions
) -> http.client.HTTPResponse:
    target = path + (f"?{query}" if query else "")
    request = (
        f"GET {target} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: {options.user_agent}\r\n"
        "Accept: */*\r\nAccept-Encoding: identity\r\nConnection: close\r\n\r\n"
    )
    try:
        connection.sendall(request.encode("ascii"))
        response = http.client.HTTPResponse(connection, method="GET")  # type: ignore[arg-type]
        response.begin()
    except TimeoutError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise FetchError(Reason.CONNECTION_FAILED, "the server did not answer in HTTP") from error
    return response


def _read(response: http.client.HTTPResponse, url: str, options: FetchOptions, truncate: bool) -> Fetched:
    if not 200 <= response.status < 300:
        raise FetchError(Reason.HTTP_ERROR, f"status {response.status}", status=response.status)
    headers = response.getheaders()
    signals = header_signals(headers, options.agent_token)
    rights = tuple(f"header:{signal}" for signal in signals)
    refusing = sorted(set(signals) & {name.strip().lower() for name in options.disallowed_header_directives})
    if refusing:
        raise FetchError(Reason.HEADER_OPTED_OUT, ", ".join(refusing), rights=rights)
    encoding = (response.getheader("Content-Encoding") or "identity").strip().lower()
    body = _body(response, options.max_bytes, truncate)
    if encoding not in ("identity", ""):
        body = _decompressed(body, encoding, options.max_bytes)
    return Fetched(body, headers, url, rights)


def _body(response: http.client.HTTPResponse, max_bytes: int, truncate: bool) -> bytes:
    announced = response.length  # None: chunked, or until the server closes
    if announced is not None and announced > max_bytes and not truncate:
        raise _too_many_bytes(max_bytes)
    body = bytearray()
    try:
        while len(body) <= max_bytes and (block := response.read(min(_BLOCK_BYTES, max_bytes + 1 - len(body)))):
            body += block
    except TimeoutError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise FetchError(Reason.INCOMPLETE_BODY, "the connection ended within the body") from error
    if len(body) > max_bytes:
        if truncate:
            return bytes(body[:max_bytes])
        raise _too_many_bytes(max_bytes)
    if announced is not None and len(body) < announced:
        raise FetchError(Reason.INCOMPLETE_BODY, "the connection ended within the body")
    return bytes(body)


def _decompressed(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Undo a compression that was not asked for."""
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise FetchError(Reason.HTTP_ERROR, f"content encoding {encoding[:20]!r} was not asked for")
    try:
        return decompress(body, encoding, max_bytes)
    except BodyTooLargeError as error:
        raise _too_many_bytes(max_bytes) from error
    except BodyError as error:
        raise FetchError(Reason.INCOMPLETE_BODY, str(error)) from error


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location.strip())
    except ValueError as error:
        raise FetchError(Reason.HTTP_ERROR, "malformed address: redirect that is no URL") from error


def _seconds_left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _timed_out(options: FetchOptions) -> FetchError:
    return FetchError(Reason.TIMED_OUT, f"not complete within {options.timeout_s:g} s")


def _too_many_bytes(max_bytes: int) -> FetchError:
    return FetchError(Reason.TOO_MANY_BYTES, f"more than {max_bytes} bytes")


def _connection_message(error: OSError) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return f"certificate refused: {error.verify_message}"
        case ssl.SSLError():
            return "TLS handshake failed"
        case ConnectionRefusedError():
            return "connection refused"
    return "no connection"


@functools.lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class _DeadlineSocket:
    """A connected socket whose operations share one deadline, however small the pieces that trickle in."""

    def __init__(self, connected: socket.socket, deadline: float, max_bytes: int) -> None:
        self._socket = connected
        self._deadline = deadline
        self._max_bytes = max_bytes

    def sendall(self, data: bytes) -> None:
        self._socket.settimeout(_seconds_left(self._deadline))
        self._socket.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb", mode  # what http.client.HTTPResponse asks for
        return io.BufferedReader(_DeadlineReader(self._socket, self._deadline, self._max_bytes), _BLOCK_BYTES)

    def close(self) -> None:
        self._socket.close()


class _DeadlineReader(io.RawIOBase):
    """Reads within the deadline, and never much more than a body may have.

    The second matters because http.client reads without a limit where a chunk claims a negative size.
    """

    def __init__(self, connected: socket.socket, deadline: float, max_bytes: int) -> None:
        self._socket = connected
        self._deadline = deadline
        self._max_bytes = max_bytes
        self._left = 2 * max_bytes + _FRAMING_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._socket.settimeout(_seconds_left(self._deadline))
        received = self._socket.recv_into(buffer)
        self._left -= received
        if self._left < 0:
            raise _too_many_bytes(self._max_bytes)
        return received
