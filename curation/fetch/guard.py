"""HTTP(S) requests that cannot be led astray: checked addresses, and caps on bytes, seconds and redirects."""

import http.client
import re
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from types import TracebackType
from urllib.parse import SplitResult, urljoin, urlsplit

from curation.fetch.connection import Connection, ConnectionPool, too_many_bytes
from curation.fetch.options import FetchOptions
from curation.fetch.outcome import Fetched, FetchError, Moved
from curation.links.bodies import BodyError, BodyTooLargeError, decompress
from curation.links.rights import header_signals
from curation.links.urls import normalise
from curation.schema import Reason

_BLOCK_BYTES = 1 << 16
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NO_ANSWER = "the server did not answer in HTTP"
_CUT = "the connection ended within the body"

Permit = Callable[[str], None]
"""Raises FetchError where a normalised URL must not be asked for."""


class Client:
    """Asks for URLs; safe to use from many threads.

    Each request goes to the very address that was checked for its host. Proxies of the environment are not used,
    cookies are not kept. Bodies are asked for without compression.

    Args:
        options: limits and manners.
    """

    def __init__(self, options: FetchOptions) -> None:
        self._options = options
        self._pool = ConnectionPool(options)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._pool.close()

    def fetch(self, url: str, permit: Permit, wait_turn: Callable[[str], None], truncate: bool = False) -> Fetched:
        """GET a URL and follow its redirects to wherever ``permit`` lets us go.

        Args:
            url: http or https; it is its turn now.
            permit: is asked about the URL and every redirect's target.
            wait_turn: is called before a redirect is followed, and returns when it is that URL's turn.
            truncate: return the first ``max_bytes`` of a longer body instead of failing.

        Raises:
            FetchError: anything but a complete body with a 2xx status.
        """
        answer = self._follow(url, permit, wait_turn, truncate, stay=False)
        assert isinstance(answer, Fetched)
        return answer

    def ask(self, url: str, permit: Permit, wait_turn: Callable[[str], None]) -> Fetched | Moved:
        """GET a URL and follow its redirects as long as they stay with its scheme and authority.

        Args:
            url: http or https; it is its turn now.
            permit: is asked about the URL and every redirect's target.
            wait_turn: is called before a redirect is followed, and returns when it is that URL's turn.

        Raises:
            FetchError: anything but a complete body with a 2xx status, or a redirect to another place.
        """
        return self._follow(url, permit, wait_turn, truncate=False, stay=True)

    def _follow(
        self, url: str, permit: Permit, wait_turn: Callable[[str], None], truncate: bool, stay: bool
    ) -> Fetched | Moved:
        most = self._options.max_redirects
        url = _normal(url)
        permit(url)
        for num_redirects in range(most + 1):
            if num_redirects:
                wait_turn(url)
            answer = self._get(url, num_redirects, truncate)
            if isinstance(answer, Fetched):
                return answer
            permit(answer)
            before, after = urlsplit(url), urlsplit(answer)
            if stay and (before.scheme, before.netloc) != (after.scheme, after.netloc) and num_redirects < most:
                return Moved(answer, num_redirects + 1)
            url = answer
        raise too_many_redirects(most)

    def _get(self, url: str, num_redirects: int, truncate: bool) -> Fetched | str:
        """One request: the response, or the URL it redirects to."""
        deadline = time.monotonic() + self._options.timeout_s
        parts = urlsplit(url)
        endpoint = (parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
        try:
            connection, response = self._answer(endpoint, self._request(parts), deadline)
            is_kept = False
            try:
                location = response.getheader("Location") if response.status in _REDIRECTS else None
                answer = _target(url, location) if location else self._read(response, url, num_redirects, truncate)
                is_kept = not response.will_close and _is_at_its_end(response)
            finally:
                if is_kept:
                    self._pool.give_back(endpoint, connection)
                else:
                    connection.close()
        except TimeoutError as error:
            raise FetchError(Reason.TIMED_OUT, f"not complete within {self._options.timeout_s:g} s") from error
        return answer

    def _answer(
        self, endpoint: tuple[str, str, int], request: bytes, deadline: float
    ) -> tuple[Connection, http.client.HTTPResponse]:
        """Send a request and read the head of its answer, over a kept connection where there is one."""
        while True:
            kept = self._pool.take(endpoint)
            connection = kept or self._pool.connect(endpoint, deadline)
            connection.begin(deadline)
            try:
                connection.sendall(request)
                response = http.client.HTTPResponse(connection, method="GET")  # type: ignore[arg-type]
                response.begin()
                _check_framing(response)
            except BaseException as error:
                connection.close()
                if isinstance(error, TimeoutError) or not isinstance(
                    error, OSError | http.client.HTTPException | ValueError
                ):
                    raise
                if kept is None:
                    raise FetchError(Reason.CONNECTION_FAILED, _NO_ANSWER) from error
                # the server gave the connection up while it was idle: that says nothing of the URL
            else:
                return connection, response

    def _request(self, parts: SplitResult) -> bytes:
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        return (
            f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nUser-Agent: {self._options.user_agent}\r\n"
            "Accept: */*\r\nAccept-Encoding: identity\r\n\r\n"
        ).encode("ascii")

    def _read(self, response: http.client.HTTPResponse, url: str, num_redirects: int, truncate: bool) -> Fetched:
        options = self._options
        if not 200 <= response.status < 300:
            later = response.getheader("Retry-After") if response.status in (429, 503) else None
            wait_s = None if later is None else retry_after_s(later, time.time())
            raise FetchError(
                Reason.HTTP_ERROR, f"status {response.status}", status=response.status, retry_after_s=wait_s
            )
        headers = response.getheaders()
        signals = header_signals(headers, options.agent_token)
        rights = tuple(f"header:{signal}" for signal in signals)
        refusing = sorted(set(signals).intersection(options.disallowed_header_directives))
        if refusing:
            raise FetchError(Reason.HEADER_OPTED_OUT, ", ".join(refusing), rights=rights)
        encoding = (response.getheader("Content-Encoding") or "identity").strip().lower()
        body = _body(response, options.max_bytes, truncate)
        if encoding not in ("identity", ""):
            body = _decompressed(body, encoding, options.max_bytes)
        return Fetched(body, headers, url, num_redirects, rights)


def too_many_redirects(most: int) -> FetchError:
    """Of a URL that leads on and on."""
    return FetchError(Reason.TOO_MANY_REDIRECTS, f"more than {most} redirects")


def retry_after_s(value: str, now: float) -> float | None:
    """Seconds that a ``Retry-After`` header asks for (RFC 9110, section 10.2.3), or None where it is neither form.

    Args:
        value: a number of seconds, or a date.
        now: seconds since the epoch.
    """
    text = value.strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _normal(url: str) -> str:
    try:
        return normalise(url)
    except ValueError as error:
        raise FetchError(Reason.HTTP_ERROR, f"malformed address: {error}") from error


def _target(url: str, location: str) -> str:
    try:
        joined = urljoin(url, location.strip())
    except ValueError as error:
        raise FetchError(Reason.HTTP_ERROR, "malformed address: redirect that is no URL") from error
    return _normal(joined)


def _check_framing(response: http.client.HTTPResponse) -> None:
    """Refuse a body whose end two readers could see in different places (RFC 9112, section 6.3).

    Raises:
        ValueError: lengths that are not one number, or a transfer coding other than chunked.
    """
    headers = response.headers
    lengths = {part.strip() for value in headers.get_all("Content-Length", []) for part in value.split(",")}
    if len(lengths) > 1 or not all(length.isascii() and length.isdecimal() for length in lengths):
        raise ValueError("Content-Length is not one number")
    codings = headers.get_all("Transfer-Encoding", [])
    if codings and [coding.strip().lower() for coding in codings] != ["chunked"]:
        raise ValueError("transfer coding is not chunked")


def _is_at_its_end(response: http.client.HTTPResponse) -> bool:
    if response.length == 0:
        response.read()
    return response.isclosed()


def _body(response: http.client.HTTPResponse, max_bytes: int, truncate: bool) -> bytes:
    announced = response.length  # None: chunked, or until the server closes
    if announced is not None and announced > max_bytes and not truncate:
        raise too_many_bytes(max_bytes)
    body = bytearray()
    try:
        while len(body) <= max_bytes and (block := response.read(min(_BLOCK_BYTES, max_bytes + 1 - len(body)))):
            body += block
    except TimeoutError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise FetchError(Reason.INCOMPLETE_BODY, _CUT) from error
    if len(body) > max_bytes:
        if truncate:
            return bytes(body[:max_bytes])
        raise too_many_bytes(max_bytes)
    if announced is not None and len(body) < announced:
        raise FetchError(Reason.INCOMPLETE_BODY, _CUT)
    return bytes(body)


def _decompressed(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Undo a compression that was not asked for."""
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise FetchError(Reason.HTTP_ERROR, f"content encoding {encoding[:20]!r} was not asked for")
    try:
        return decompress(body, encoding, max_bytes)
    except BodyTooLargeError as error:
        raise too_many_bytes(max_bytes) from error
    except BodyError as error:
        raise FetchError(Reason.INCOMPLETE_BODY, str(error)) from error
