"""A small HTTP server on loopback that behaves as badly as servers do."""

import contextlib
import gzip
import http.server
import threading
import time
from collections.abc import Iterator

GOOD = b"\xff\xd8\xff\xe0 the bytes of a picture"
BOMB = gzip.compress(bytes(50_000_000))


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.requests.append((self.headers.get("Host"), self.path, dict(self.headers)))
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
        status, body = self.server.robots
        self._answer(status, body, Location=self.server.robots_location)


class Hostile(http.server.ThreadingHTTPServer):
    """The server, what it was asked, and the robots.txt it gives."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests = []
        self.robots = (404, b"")
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
