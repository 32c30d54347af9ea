"""A web of small pictures on loopback that answers faster than anybody here can ask: one epoll loop in a process."""

import contextlib
import io
import multiprocessing
import select
import socket
from collections.abc import Iterator
from multiprocessing.connection import Connection

import numpy as np
from PIL import Image

_END = b"\r\n\r\n"
_EVENTS = 1024


@contextlib.contextmanager
def serving(keep_alive: bool) -> Iterator[int]:
    """Run the server in a process of its own and give its port; every 127.0.0.x reaches it.

    Args:
        keep_alive: False closes each connection after its answer, whatever the client prefers.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, keep_alive), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.kill()
        process.join()


def picture(path: bytes) -> bytes:
    """A JPEG of about 4 kB that is different for every path: a comment in it holds the path."""
    comment = b"\xff\xfe" + (len(path) + 2).to_bytes(2, "big") + path
    return _BASE[:2] + comment + _BASE[2:]


def _base() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=75)
    return buffer.getvalue()


_BASE = _base()


def _serve(ready: Connection, keep_alive: bool) -> None:
    listener = socket.create_server(("0.0.0.0", 0), backlog=4096)
    listener.setblocking(False)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    ready.send(listener.getsockname()[1])
    clients: dict[int, socket.socket] = {}
    pending: dict[int, bytes] = {}
    while True:
        for number, _ in poll.poll(maxevents=_EVENTS):
            if number == listener.fileno():
                with contextlib.suppress(BlockingIOError):
                    while True:
                        client, _ = listener.accept()
                        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        clients[client.fileno()] = client
                        poll.register(client, select.EPOLLIN)
                continue
            client = clients[number]
            if not _answer(client, pending, keep_alive):
                pending.pop(number, None)
                poll.unregister(number)
                clients.pop(number).close()


def _answer(client: socket.socket, pending: dict[int, bytes], keep_alive: bool) -> bool:
    """Read what a client sent and answer it where that is a whole request; whether the connection stays."""
    try:
        received = client.recv(1 << 16)
    except OSError:
        return False
    if not received:
        return False
    request = pending.pop(client.fileno(), b"") + received
    if not request.endswith(_END):
        pending[client.fileno()] = request
        return True
    stays = keep_alive and b"onnection: close" not in request
    body = picture(request.split(b" ", 2)[1])
    head = (
        b"HTTP/1.1 200 OK\r\nServer: benchmark\r\nDate: Fri, 20 Nov 2026 12:00:00 GMT\r\nContent-Type: image/jpeg\r\n"
        b'ETag: "65f1c0de-1000"\r\nLast-Modified: Mon, 02 Nov 2026 08:00:00 GMT\r\nCache-Control: max-age=86400\r\n'
        b"Accept-Ranges: bytes\r\nContent-Length: %d\r\nConnection: %s\r\n\r\n"
    )
    try:
        client.sendall(head % (len(body), b"keep-alive" if stays else b"close") + body)
    except OSError:
        return False
    return stays
