"""Connections that are used again, by a server whose every byte the test chooses."""

import contextlib
import socket
import threading

import pytest

from curation.fetch.guard import Client
from curation.fetch.options import FetchOptions
from curation.fetch.outcome import FetchError, Moved

FIRST = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst"
SECOND = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond"
FORGED = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"


@contextlib.contextmanager
def scripted(*connections):
    """A server that answers the n-th request on the n-th connection with the bytes given; None hangs up instead."""
    listener, seen = socket.create_server(("127.0.0.1", 0)), []

    def run():
        for answers in connections:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            requests = []
            seen.append(requests)
            with client:
                for answer in answers:
                    request = client.recv(1 << 16)
                    if not request:
                        break
                    requests.append(request.split(b" ")[1].decode())
                    if answer is None:
                        break
                    client.sendall(answer)
                else:
                    with contextlib.suppress(OSError):
                        client.recv(1)  # until the other side hangs up

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}", seen
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def anything(_):
    """A permit, or a turn that is there."""


def bodies(address, *paths, **options):
    options = FetchOptions(timeout_s=3.0, retries=0, resolve={"garden.test": address}, **options)
    with Client(options) as client:
        return [client.fetch(f"http://garden.test{path}", anything, anything).body for path in paths]


def test_one_connection_serves_many_requests():
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    moved = b"HTTP/1.1 302 Found\r\nLocation: /c\r\nContent-Length: 0\r\n\r\n"
    with scripted((FIRST, chunked, moved, SECOND)) as (address, seen):
        assert bodies(address, "/a", "/b", "/d") == [b"first", b"abc", b"second"]
        assert seen == [["/a", "/b", "/d", "/c"]]


@pytest.mark.parametrize(
    "first",
    [
        FIRST + FORGED,  # at once
        FIRST.replace(b"200 OK", b"200 OK\r\nConnection: close"),
        FIRST.replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
)
def test_a_connection_is_not_used_again_unless_it_is_clean(first):
    with scripted((first, None), (SECOND,)) as (address, seen):
        assert bodies(address, "/a", "/b") == [b"first", b"second"]
        assert seen == [["/a"], ["/b"]]


def test_a_kept_connection_that_the_server_gave_up_costs_no_url():
    with scripted((FIRST, None), (SECOND,)) as (address, seen):
        assert bodies(address, "/a", "/b") == [b"first", b"second"]
        assert seen == [["/a", "/b"], ["/b"]]


def test_a_new_connection_that_hangs_up_is_a_failure():
    with scripted((None,), (SECOND,)) as (address, seen):
        with pytest.raises(FetchError, match="did not answer"):
            bodies(address, "/a")
        assert seen == [["/a"]]


def test_what_an_answer_left_behind_is_not_the_next_answer():
    """The forged answer arrives in a packet of its own, when the first was read already."""
    with scripted((FIRST, SECOND)) as (address, _):
        options = FetchOptions(timeout_s=3.0, retries=0, resolve={"garden.test": address})
        with Client(options) as client:
            assert client.fetch("http://garden.test/a", anything, anything).body == b"first"
            (kept,) = client._pool._idle.values()
            assert kept[0].is_quiet()
            kept[0]._socket.sendall(b"GET /nobody HTTP/1.1\r\n\r\n")  # makes the server say what was not asked for
            kept[0]._socket.settimeout(3.0)
            kept[0]._socket.recv(1, socket.MSG_PEEK)
            assert not kept[0].is_quiet()


def test_a_redirect_to_another_place_is_told_not_followed():
    def to(place):
        return b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + place + b"\r\n\r\n"

    for place, target in (
        (b"//lake.test/x", "http://lake.test/x"),
        (b"https://garden.test/x", "https://garden.test/x"),
        (b"http://garden.test:81/x", "http://garden.test:81/x"),
    ):
        with scripted((to(b"/b"), to(place))) as (address, seen):
            options = FetchOptions(timeout_s=3.0, retries=0, resolve={"*.test": address})
            permitted, turns = [], []
            with Client(options) as client:
                answer = client.ask("http://garden.test/a", permitted.append, turns.append)
            assert answer == Moved(target, 2)
            assert seen == [["/a", "/b"]]
            assert permitted == ["http://garden.test/a", "http://garden.test/b", target]
            assert turns == ["http://garden.test/b"]
