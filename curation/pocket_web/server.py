"""One loopback server that answers for every host of the pocket web, by the Host header."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

CONTENT_TYPES = {
    ".gif": "image/gif",
    ".html": "text/html; charset=utf-8",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
    ".webp": "image/webp",
}
ENDLESS_BLOCK = bytes(65_536)


class PocketServer(ThreadingHTTPServer):
    """Serves ``site/<host>/<path>`` and what ``behaviours.json`` says beside it.

    Attributes:
        requests: how often each URL was asked for, e.g. ``http://garden.test/photos/a.jpg``.
        port: the loopback port.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, folder: Path, port: int = 0) -> None:
        site = folder / "site"
        if not site.is_dir():
            raise ValueError(
                f"{folder}: holds no site/ to serve; build it: python -m curation.pocket_web build {folder}"
            )
        # A closed list of files, so that no URL can reach outside the folder.
        files = (path for path in site.glob("*/**/*") if path.is_file())
        self.files = {f"http://{quote(path.relative_to(site).as_posix())}": path for path in files}
        self.behaviours: dict[str, dict[str, Any]] = json.loads((site / "behaviours.json").read_text("utf-8"))
        self.requests: Counter[str] = Counter()
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)
        self.port = int(self.server_address[1])

    def count(self, url: str) -> None:
        """Note one request."""
        with self._lock:
            self.requests[url] += 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is part of the exercise: say nothing."""


@contextmanager
def serve(folder: Path, port: int = 0) -> Iterator[PocketServer]:
    """Serve a built pocket web on 127.0.0.1 while the block runs.

    Args:
        folder: what ``build`` wrote.
        port: 0 takes a free one.

    Raises:
        ValueError: the folder holds no site.
    """
    server = PocketServer(folder, port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: PocketServer

    def do_GET(self) -> None:
        host = self.headers.get("Host", "").partition(":")[0].lower()
        url = f"http://{host}{self.path}"
        self.server.count(url)
        behaviour = self.server.behaviours.get(url, {})
        file = self.server.files.get("http://" + behaviour["file"] if "file" in behaviour else url)
        fault = behaviour.get("fault")
        if fault == "hang_up":
            self.close_connection = True
        elif fault == "endless":
            self._endless()
        else:
            body = file.read_bytes() if file else b""
            status = behaviour.get("status", 200 if file else 404)
            content_type = CONTENT_TYPES[file.suffix if file else ".html"]
            headers = {"Content-Type": content_type, **behaviour.get("headers", {})}
            declared = len(body) * 2 if fault in ("short", "stall") else len(body)
            self._send(status, {**headers, "Content-Length": str(declared)}, body)
            if fault == "stall":
                self.server.stopping.wait()
            if fault:
                self.close_connection = True

    do_HEAD = do_GET  # noqa: N815, the name http.server looks for

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
            self.wfile.flush()

    def _endless(self) -> None:
        self.close_connection = True
        self._send(200, {"Content-Type": "image/jpeg", "Connection": "close"}, b"\xff\xd8\xff\xe0")
        while self.command != "HEAD" and not self.server.stopping.is_set():
            self.wfile.write(ENDLESS_BLOCK)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""
