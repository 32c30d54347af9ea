"""A small HTTP server on loopback that behaves as badly as servers do."""

import contextlib
import gzip
import http.server
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from curation.fetch.options import FetchOptions
from curation.schema import Reason

GOOD = b"\xff\xd8\xff\xe0 the bytes of a picture"
BOMB = gzip.compress(bytes(50_000_000))


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        host = self.headers.get("Host")
        self.server.requests.append((host, self.path, dict(self.headers)))
        self.server.times.setdefault(host, []).append(time.monotonic())
        self.close_connection = True
        with contextlib.suppress(OSError):
            path, _, argument = self.path.partition("?")
            page = getattr(self, "_" + path.strip("/").replace("-", "_").replace(".", "_"), None)
            if page is None:
                self._answer(404, b"no such page")
            else:
                page(argument)

    def _answer(self, status, body, **headers):
        self.send_response(status)
        headers.setdefault("Content_Length", str(len(body)))
        for name, value in headers.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _good(self, _):
        time.sleep(0.002 * (hash(self.path) % 5))  # answers overtake each other
        self._answer(200, GOOD + self.path.encode())

    def _empty(self, _):
        self._answer(200, b"")

    def _html(self, _):
        self._answer(200, b"<html>not a picture</html>", Content_Type="image/jpeg")

    def _redirect(self, target):
        self._answer(302, b"", Location=target)

    def _loop(self, argument):
        self._answer(302, b"", Location=f"/loop?{int(argument or 0) + 1}")

    def _status(self, argument):
        self._answer(int(argument), b"")

    def _optout(self, argument):
        self._answer(200, GOOD, X_Robots_Tag=argument.replace("+", " "))

    def _reserved(self, _):
        self._answer(200, GOOD, TDM_Reservation="1")

    def _endless(self, _):
        self._answer(200, b"", Content_Length=None)
        while True:
            self.wfile.write(bytes(65536))

    def _endless_chunked(self, _):
        self._answer(200, b"", Content_Length=None, Transfer_Encoding="chunked")
        while True:
            self.wfile.write(b"10000\r\n" + bytes(65536) + b"\r\n")

    def _negative_chunk(self, _):
        self._answer(200, b"", Content_Length=None, Transfer_Encoding="chunked")
        self.wfile.write(b"-1\r\n")
        while True:
            self.wfile.write(bytes(65536))

    def _endless_headers(self, _):
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            self.wfile.write(b"X-A: b\r\n" * 1000)

    def _drip(self, _):
        self._answer(200, b"", Content_Length="100000")
        while True:
            self.wfile.write(b".")
            time.sleep(0.05)

    def _drip_headers(self, _):
        for byte in b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10000:
            self.wfile.write(bytes([byte]))
            time.sleep(0.05)

    def _silent(self, _):
        time.sleep(2)

    def _announces_too_much(self, _):
        self._answer(200, b"", Content_Length=str(1 << 40))

    def _short(self, _):
        self._answer(200, b"half", Content_Length="8")

    def _long(self, _):
        self._answer(200, b"exactly and then more", Content_Length="7")

    def _negative_length(self, _):
        self._answer(200, b"minus", Content_Length="-5")

    def _two_lengths(self, _):
        self._answer(200, b"five or eight", Content_Length="5, 8")

    def _huge_chunk(self, _):
        self._answer(200, b"7fffffffffffffff\r\nlittle", Content_Length=None, Transfer_Encoding="chunked")

    def _no_chunk(self, _):
        self._answer(200, b"zz\r\nnot hexadecimal", Content_Length=None, Transfer_Encoding="chunked")

    def _other_coding(self, _):
        self._answer(200, b"0\r\n\r\n", Content_Length=None, Transfer_Encoding="gzip, chunked")

    def _header_flood(self, _):
        self.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 5000 + b"\r\n")

    def _long_header(self, _):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-A: " + b"b" * 1_000_000 + b"\r\n\r\n")

    def _attachment(self, _):
        self._answer(200, GOOD, Content_Disposition='attachment; filename="../../../../evil.jpg"')

    def _http09(self, _):
        self.wfile.write(GOOD)

    def _elsewhere(self, argument):
        self._answer(302, b"", Location=f"http://h{argument}.test/elsewhere?{int(argument) + 1}")

    def _cut_chunk(self, _):
        self._answer(200, b"100\r\nonly this", Content_Length=None, Transfer_Encoding="chunked")

    def _chunked(self, _):
        self._answer(200, b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", Content_Length=None, Transfer_Encoding="chunked")

    def _bomb(self, _):
        self._answer(200, BOMB, Content_Encoding="gzip")

    def _gzip(self, _):
        self._answer(200, gzip.compress(GOOD), Content_Encoding="gzip")

    def _cut_gzip(self, _):
        self._answer(200, gzip.compress(GOOD)[:-12], Content_Encoding="gzip")

    def _not_http(self, _):
        self.wfile.write(b"SSH-2.0-OpenSSH\r\n")

    def _hang_up(self, _):
        pass

    def _robots_txt(self, _):
        name = (self.headers.get("Host") or "").partition(":")[0]
        status, body = self.server.robots_of.get(name, self.server.robots)
        self._answer(status, body, Location=self.server.robots_location)


NO_HTTP = (Reason.CONNECTION_FAILED, "the server did not answer in HTTP")
CUT = (Reason.INCOMPLETE_BODY, "the connection ended within the body")
TOO_LONG = (Reason.TOO_MANY_BYTES, "more than 200000 bytes")
LATE = (Reason.TIMED_OUT, "not complete within 1 s")
PRIVATE = Reason.PRIVATE_ADDRESS
FINE = (None, None)

# what each misbehaviour ends in, with 200,000 bytes, 1 s and 1 redirect
CASES = {
    "/redirect?http://127.0.0.1:1/": (PRIVATE, "127.0.0.1 is at a private or reserved address"),
    "/redirect?http://169.254.169.254/meta": (PRIVATE, "169.254.169.254 is at a private or reserved address"),
    "/redirect?http://[::ffff:169.254.169.254]/": (PRIVATE, "::ffff:a9fe:a9fe is at a private or reserved address"),
    "/redirect?http://[64:ff9b::7f00:1]/": (PRIVATE, "64:ff9b::7f00:1 is at a private or reserved address"),
    "/redirect?http://localhost:1/": (PRIVATE, "localhost is at a private or reserved address"),
    "/redirect?http://mixed.org/": (PRIVATE, "mixed.org is at a private or reserved address"),
    "/redirect?http://changing.org/": (Reason.CONNECTION_FAILED, "connection refused"),
    "/redirect?http://2852039166/": (Reason.HTTP_ERROR, "malformed address: "),
    "/redirect?http://0251.0376.0251.0376/": (Reason.HTTP_ERROR, "malformed address: "),
    "/redirect?http://0xa9fea9fe/": (Reason.HTTP_ERROR, "malformed address: "),
    "/redirect?http://user:password@lake.test/": (Reason.HTTP_ERROR, "malformed address: URL with credentials"),
    "/redirect?file:///etc/passwd": (Reason.HTTP_ERROR, "malformed address: "),
    "/redirect?http://sub.blocked.test/good": (Reason.BLOCKED_DOMAIN, "blocked_domains: rule blocked.test"),
    "/loop": (Reason.TOO_MANY_REDIRECTS, "more than 1 redirects"),
    "/elsewhere?0": (Reason.TOO_MANY_REDIRECTS, "more than 1 redirects"),
    "/status?404": (Reason.HTTP_ERROR, "status 404"),
    "/status?503": (Reason.HTTP_ERROR, "status 503"),
    "/optout?noai": (Reason.HEADER_OPTED_OUT, "noai"),
    "/endless": TOO_LONG,
    "/endless-chunked": TOO_LONG,
    "/negative-chunk": TOO_LONG,
    "/announces-too-much": TOO_LONG,
    "/bomb": TOO_LONG,
    "/huge-chunk": CUT,
    "/no-chunk": CUT,
    "/cut-chunk": CUT,
    "/short": CUT,
    "/cut-gzip": (Reason.INCOMPLETE_BODY, "truncated gzip body"),
    "/negative-length": NO_HTTP,
    "/two-lengths": NO_HTTP,
    "/other-coding": NO_HTTP,
    "/endless-headers": NO_HTTP,
    "/header-flood": NO_HTTP,
    "/long-header": NO_HTTP,
    "/not-http": NO_HTTP,
    "/http09": NO_HTTP,
    "/hang-up": NO_HTTP,
    "/drip": LATE,
    "/drip-headers": LATE,
    "/silent": LATE,
    # nothing that a download can see: the bytes are kept, and judged by those who decode them
    "/html": FINE,
    "/long": FINE,
    "/empty": FINE,
    "/attachment": FINE,
    "/good?../../../../../evil": FINE,
    "/%2e%2e/%2E%2E/good": FINE,
    "/redirect?/good": FINE,
    "/redirect?http://lake.test/good": FINE,
}
URLS = sorted([*(f"http://garden.test{path}" for path in CASES), "https://garden.test/good"])


def expected(url: str) -> tuple[Reason | None, str | None]:
    """Reason and the beginning of the detail."""
    if url.startswith("https:"):
        return Reason.CONNECTION_FAILED, "TLS handshake failed"
    return CASES[url.removeprefix("http://garden.test")]


def options(server: "Hostile") -> FetchOptions:
    """What ``CASES`` is written for."""
    return FetchOptions(
        timeout_s=1.0,
        max_bytes=200_000,
        max_redirects=1,
        threads=16,
        retries=0,
        requests_per_s=1e6,
        connections_per_host=16,
        resolve={"*.test": server.address},
    )


@contextlib.contextmanager
def strange_names(server_port: int) -> Iterator[None]:
    """A name service with a host at two kinds of address, and one that is elsewhere at each look-up.

    The one public address of them refuses every connection; a connection to anything else but the server is an error.
    """
    answers = {"mixed.org": [["93.184.215.14", "127.0.0.1"]], "changing.org": [["93.184.215.14"], ["127.0.0.1"]]}
    look_up, connect = socket.getaddrinfo, socket.create_connection

    def getaddrinfo(host, port, *more, **options):
        if host not in answers:
            return look_up(host, port, *more, **options)
        found = answers[host][0] if len(answers[host]) == 1 else answers[host].pop(0)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    def create_connection(address, timeout):
        if address == ("93.184.215.14", 80):
            raise ConnectionRefusedError
        assert address == ("127.0.0.1", server_port), address
        return connect(address, timeout)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        patch.setattr(socket, "create_connection", create_connection)
        yield


class Hostile(http.server.ThreadingHTTPServer):
    """The server, what it was asked, and the robots.txt it gives."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests = []
        self.times = {}
        self.robots = (404, b"")
        self.robots_of = {}
        self.robots_location = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def handle_error(self, *_):
        pass


@contextlib.contextmanager
def serving() -> Iterator[Hostile]:
    """Run the server in a thread."""
    server = Hostile()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
