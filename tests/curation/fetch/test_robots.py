import threading

import pytest

from curation.fetch import retry as retry_module
from curation.fetch import robots as robots_module
from curation.fetch.guard import Client
from curation.fetch.outcome import FetchError
from curation.fetch.robots import (
    MAX_ROBOTS_BYTES,
    RobotsRecord,
    allows,
    ask_hosts,
    crawl_delay_s,
    robots_host,
    robots_limits,
)
from curation.fetch.turns import Pace
from curation.schema import Reason

HOST = "http://garden.test"
AGENT = "openlvd/0.1 (+contact)"


def anything(_):
    """A permit."""


def fetch_robots(host, options, permit=anything):
    with Client(robots_limits(options)) as client:
        return robots_module.fetch_robots(host, client, permit, Pace(1e-6), options)


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
        ("User-agent: open\nDisallow: /", "/a", True),  # the product token as a whole
        ("User-agent: openlvdbot\nDisallow: /", "/a", True),
        ("User-agent: open-lvd\nDisallow: /", "/a", True),
        ("User-agent: openlvdbot\nDisallow: /\n\nUser-agent: openlvd\nAllow: /", "/a", True),
        ("User-agent: openlvd/2.0\nDisallow: /", "/a", False),  # a version is not part of it
        ("User-agent: OPENLVD # that is us\nDisallow: /", "/a", False),
        ("User-agent: open\nAllow: /\n\nUser-agent: *\nDisallow: /", "/a", False),
        ("User-agent: us\nDisallow: /\n\nUser-agent: others\nDisallow: /", "/a", True),
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

    def answer(host, *_):
        barrier.wait(timeout=5)
        return RobotsRecord(host, "rules", "")

    monkeypatch.setattr(robots_module, "fetch_robots", answer)
    hosts = [f"http://{n}.test" for n in range(100)]
    pieces = list(ask_hosts(iter(hosts), anything, Pace(1.0), options))
    assert [record.host for piece in pieces for record in piece] == hosts
    assert max(map(len, pieces)) < 50


def test_requests_to_one_host_wait_their_turn_whoever_redirects_or_fails_there(options, server, monkeypatch):
    monkeypatch.setattr(retry_module, "_FIRST_PAUSE_S", 0.0)
    server.robots, server.robots_location = (302, b""), "http://central.test/robots.txt"
    server.robots_of["central.test"] = (503, b"")
    waited = []
    pace = Pace(1.0, clock=lambda: 0.0, sleep=waited.append)
    patient = options.model_copy(update={"retries": 1})
    hosts = [f"http://{n}.test" for n in range(6)] + ["http://central.test"]
    assert {record.status for some in ask_hosts(hosts, anything, pace, patient) for record in some} == {"unreachable"}
    asked = [host for host, _, _ in server.requests]
    assert asked.count("central.test") == 14
    # the first request to any host waits for nothing, the n-th to central.test for n seconds, a second one for 1
    assert sorted(waited) == sorted([*range(1, 14), *[1] * 6])


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        ("User-agent: *\nCrawl-delay: 2.5", 2.5),
        ("User-agent: *\nCrawl-delay: 2\n\nUser-agent: openlvd\nDisallow: /x", 0.0),
        ("User-agent: openlvdbot\nCrawl-delay: 9\n\nUser-agent: openlvd\nCrawl-delay: 1", 1.0),
        ("User-agent: *\nCrawl-delay: soon", 0.0),
        ("User-agent: *\nCrawl-delay: -1", 0.0),
    ],
)
def test_crawl_delay(body, seconds):
    assert crawl_delay_s(rules(body), AGENT) == seconds


def test_a_blocked_place_is_not_asked_for_rules(options, server):
    def permit(url):
        if "lake" in url:
            raise FetchError(Reason.BLOCKED_DOMAIN, "lake.test")

    server.robots = (302, b"")
    server.robots_location = "http://lake.test/robots.txt"
    record = fetch_robots(HOST, options, permit)
    assert (record.status, record.body) == ("unreachable", "lake.test")
    assert [host for host, _, _ in server.requests] == ["garden.test"]
