import hashlib
import http.client
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from curation.pocket_web import PocketServer, serve


@pytest.fixture(scope="module")
def server(web: Path):
    with serve(web) as running:
        yield running


def ask(server: PocketServer, url: str, timeout_s: float = 5) -> tuple[http.client.HTTPResponse, bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout_s)
    try:
        connection.request(
            "GET", parts.path + (f"?{parts.query}" if parts.query else ""), headers={"Host": parts.netloc}
        )
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def case_url(truth, kind: str) -> str:
    return next(case.url for case in truth.cases if case.kind == kind)


def test_every_picture_answers_with_its_own_bytes(server, truth):
    expected = {url: tile.image_id for tile in truth.tiles for url in tile.urls}
    faulty = {"redirect", "direct"}
    expected |= {
        case.url: case.image_id
        for case in truth.cases
        if case.image_id is not None and case.kind.split("_")[0] not in faulty and case.kind != "good_redirect"
    }
    with ThreadPoolExecutor(8) as pool:
        answers = dict(zip(expected, pool.map(lambda url: ask(server, url), expected), strict=True))
    wrong = {url for url, (_, body) in answers.items() if hashlib.sha256(body).hexdigest()[:32] != expected[url]}
    assert wrong == set()
    assert {answer.status for answer, _ in answers.values()} == {200}
    assert len(expected) > 400


def test_requests_are_counted_by_url(web, truth):
    url = truth.tiles[0].urls[0]
    with serve(web) as server:
        ask(server, url)
        ask(server, url)
        ask(server, "http://nowhere.test/x.jpg")
        assert server.requests == {url: 2, "http://nowhere.test/x.jpg": 1}


def test_the_good_redirect_leads_to_its_picture(server, truth):
    answer, _ = ask(server, case_url(truth, "good_redirect"))
    assert answer.status == 302
    _, body = ask(server, answer.headers["Location"])
    wanted = next(case.image_id for case in truth.cases if case.kind == "good_redirect")
    assert hashlib.sha256(body).hexdigest()[:32] == wanted


def test_redirects_name_private_addresses(server, truth):
    places = {ask(server, c.url)[0].headers["Location"] for c in truth.cases if c.kind == "redirect_private"}
    assert {urlsplit(place).hostname for place in places} == {
        "127.0.0.1", "169.254.169.254", "10.0.0.1", "::1", "redirect.test",
    }  # fmt: skip


def test_a_loop_never_ends(server, truth):
    for url in [case.url for case in truth.cases if case.kind == "redirect_loop"]:
        for _ in range(30):
            answer, _ = ask(server, url)
            assert answer.status == 302
            url = answer.headers["Location"]


def test_robots_and_headers(server):
    answer, body = ask(server, "http://private.test/robots.txt")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/plain")
    assert b"Disallow: /private/" in body
    assert ask(server, "http://broken-robots.test/robots.txt")[0].status == 500
    assert ask(server, "http://garden.test/robots.txt")[0].status == 404


def test_opt_out_headers_are_sent(server, truth):
    tags = [ask(server, c.url)[0].headers["X-Robots-Tag"] for c in truth.cases if c.kind == "header_opted_out"]
    assert sorted(tags) == ["noai", "noai", "noimageai", "noimageai"]


def test_short_bodies_end_early(server, truth):
    with pytest.raises(http.client.IncompleteRead):
        ask(server, case_url(truth, "short_body"))


def test_a_stalled_body_keeps_the_client_waiting(server, truth):
    with pytest.raises(TimeoutError):
        ask(server, case_url(truth, "stall_body"), timeout_s=0.3)


def test_a_server_that_hangs_up_says_nothing(server, truth):
    with pytest.raises(http.client.RemoteDisconnected):
        ask(server, case_url(truth, "hang_up"))


def test_the_endless_body_does_not_end_and_the_server_survives_it(server, truth):
    parts = urlsplit(case_url(truth, "endless_body"))
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
        client.sendall(f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
        received = 0
        while received < 20_000_000:
            block = client.recv(1 << 20)
            assert block
            received += len(block)
    assert ask(server, "http://garden.test/robots.txt")[0].status == 404


@pytest.mark.parametrize("path", ["/../behaviours.json", "/..%2f..%2ftruth.json", "/../../truth.json", "//etc/passwd"])
def test_nothing_outside_the_site_is_served(server, path):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.request("GET", path, headers={"Host": "garden.test"})
    assert connection.getresponse().status == 404
    connection.close()


def test_stalled_clients_do_not_hold_up_the_end(web, truth):
    url = urlsplit(case_url(truth, "stall_body"))
    with serve(web) as server:
        client = socket.create_connection(("127.0.0.1", server.port), timeout=5)
        client.sendall(f"GET {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\n\r\n".encode())
        assert client.recv(100)
    with client:
        while client.recv(1 << 20):  # the end of the server ends the answer
            pass


def test_a_folder_without_a_site_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no site"), serve(tmp_path):
        pass
