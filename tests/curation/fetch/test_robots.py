import threading

import pytest

from curation.fetch import retry as retry_module
from curation.fetch import robots as robots_module
from curation.fetch.robots import MAX_ROBOTS_BYTES, RobotsRecord, allows, ask_hosts, fetch_robots, robots_host

HOST = "http://garden.test"
AGENT = "openlvd/0.1 (+contact)"


def rules(body):
    return RobotsRecord(HOST, "rules", body)


@pytest.mark.parametrize(
    ("body", "path", "allowed"),
    [
        ("", "/a", True),
        ("User-agent: *\nDisallow:", "/a", True),
        ("User-agent: *\nDisallow: /", "/a", False),
        ("User-agent: *\nDisallow: /a\nAllow: /a/b", "/a/b/c", True),  # the longest match
        ("User-agent: *\nAllow: /a/b\nDisallow: /a/b/c", "/a/b/c", False),
        ("User-agent: *\nDisallow: /a\nAllow: /a", "/a", True),  # allow wins a tie
        ("User-agent: *\nDisallow: /*.gif$", "/x/y.gif", False),
        ("User-agent: *\nDisallow: /*.gif$", "/x/y.gif?z", True),
        ("User-agent: *\nDisallow: /a*c", "/abbbc/d", False),
        ("User-agent: *\nDisallow: /private", "/Private", True),  # paths keep their case
        ("User-agent: *\nDisallow: /%7Ejoe", "/~joe/x", False),
        ("User-agent: *\nDisallow: /caf\u00e9", "/caf%C3%A9", False),
        ("User-agent: *\nDisallow: /\n\nUser-agent: OpenLVD\nDisallow: /x", "/a", True),  # our group alone
        ("User-agent: *\nAllow: /\n\nUser-agent: openlvd\nDisallow: /", "/a", False),
        ("User-agent: openlvd\nUser-agent: other\nDisallow: /", "/a", False),
        ("User-agent: openlvd\nDisallow: /a\n\nUser-agent: openlvd\nDisallow: /b", "/b", False),  # groups merge
        ("User-agent: other\nDisallow: /", "/a", True),
        ("User-agent: lvd\nDisallow: /", "/a", True),
        ("Disallow: /", "/a", True),  # no group
        ("<html>not robots at all</html>", "/a", True),
        ("User-agent: * # all\nDisallow: /a # this", "/a", False),
        ("user-agent:*\r\ndisallow:/a\r\n", "/a", False),
    ],
)
def test_rules(body, path, allowed):
    assert allows(rules(body), HOST + path, AGENT) is allowed


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        *((status, "rules") for status in (200, 204)),
        *((status, "allowed_all") for status in (401, 403, 404, 410)),
        *((status, "unreachable") for status in (429, 500, 503)),
    ],
)
def test_status(status, expected, server, options):
    server.robots = (status, b"User-agent: *\nDisallow: /x")
    assert fetch_robots(HOST, options).status == expected
    assert [path for _, path, _ in server.requests] == ["/robots.txt"]


def test_unreachable_forbids_unless_told_otherwise(options, server):
    server.robots = (503, b"")
    record = fetch_robots(HOST, options)
    assert record.status == "unreachable"
    assert not allows(record, f"{HOST}/a", AGENT)
    assert allows(record, f"{HOST}/a", AGENT, fail_closed=False)


def test_a_private_host_is_never_asked_nor_allowed(options, server):
    record = fetch_robots("http://127.0.0.1", options)
    assert record.status == "private"
    assert server.requests == []
    assert not allows(record, "http://127.0.0.1/a", AGENT)
    assert not allows(record, "http://127.0.0.1/a", AGENT, fail_closed=False)


def test_rules_behind_the_size_limit_are_not_read(options, server):
    filler = b"# filler\n" * (MAX_ROBOTS_BYTES // 9)
    server.robots = (200, b"User-agent: *\nDisallow: /first\n" + filler + b"Disallow: /last\n" + filler)
    record = fetch_robots(HOST, options)
    assert len(record.body) == MAX_ROBOTS_BYTES
    assert not allows(record, f"{HOST}/first", AGENT)
    assert allows(record, f"{HOST}/last", AGENT)


def test_bytes_that_are_no_text(options, server):
    server.robots = (200, b"\xef\xbb\xbfUser-agent: *\nDisallow: /\xff\x00\n")
    assert allows(fetch_robots(HOST, options), f"{HOST}/a", AGENT)


def test_host_is_scheme_and_authority():
    assert robots_host("https://a.example.org:8443/x?y") == "https://a.example.org:8443"


@pytest.mark.parametrize(("status", "asked"), [(503, 3), (429, 3), (404, 1), (200, 1)])
def test_a_failure_that_may_pass_is_tried_again(status, asked, options, server, monkeypatch):
    monkeypatch.setattr(retry_module, "_FIRST_PAUSE_S", 0.0)
    server.robots = (status, b"")
    fetch_robots(HOST, options.model_copy(update={"retries": 2}))
    assert [path for _, path, _ in server.requests] == ["/robots.txt"] * asked


def test_hosts_are_asked_at_once_and_answered_in_order(options, monkeypatch):
    """Four threads meet at the barrier; hosts asked one by one would break it."""
    barrier = threading.Barrier(options.threads)

    def answer(host, _):
        barrier.wait(timeout=5)
        return RobotsRecord(host, "rules", "")

    monkeypatch.setattr(robots_module, "fetch_robots", answer)
    hosts = [f"http://{n}.test" for n in range(100)]
    pieces = list(ask_hosts(iter(hosts), options))
    assert [record.host for piece in pieces for record in piece] == hosts
    assert max(map(len, pieces)) < 50
