import pytest

from curation.fetch.options import FetchOptions
from curation.fetch.outcome import FetchError
from curation.fetch.permission import Permission
from curation.fetch.robots import RobotsRecord
from curation.links.rules import BlockLists, read_rules
from curation.schema import Reason

A, B, C, D = (f"http://{name}.test" for name in "abcd")
RECORDS = {
    A: RobotsRecord(A, "rules", "User-agent: *\nDisallow: /x\nCrawl-delay: 3"),
    B: RobotsRecord(B, "unreachable", "connection refused"),
    C: RobotsRecord(C, "private", "c.test is at a private address"),
}
OPTIONS = FetchOptions(requests_per_s=2.0, max_crawl_delay_s=2.5)


def refused(url, fail_closed=True):
    permission = Permission(RECORDS, BlockLists((read_rules(["blocked.test"], "mine"),)).refusing, OPTIONS, fail_closed)
    try:
        permission.check(url)
    except FetchError as error:
        return error.reason, error.message
    return None


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (f"{A}/y", None),
        (f"{A}/x", (Reason.ROBOTS_DISALLOWED, f"{A}/robots.txt")),
        (f"{A}:81/x", None),  # another authority, whose rules are not these
        ("https://a.test/x", None),
        (f"{B}/y", (Reason.ROBOTS_UNREACHABLE, f"{B}/robots.txt: connection refused")),
        (f"{C}/y", (Reason.PRIVATE_ADDRESS, "c.test is at a private address")),
        (f"{D}/x", None),
        ("http://a.blocked.test/y", (Reason.BLOCKED_DOMAIN, "mine: rule blocked.test")),
    ],
)
def test_each_refusal_has_its_reason(url, why):
    assert refused(url) == why


def test_open_lets_the_unreachable_through_but_not_the_private():
    assert refused(f"{B}/y", fail_closed=False) is None
    assert refused(f"{C}/y", fail_closed=False)[0] is Reason.PRIVATE_ADDRESS


@pytest.mark.parametrize(("url", "seconds"), [(f"{A}/y", 2.5), (f"{B}/y", 0.5), (f"{D}/y", 0.5)])
def test_a_host_sets_the_pace_within_the_cap(url, seconds):
    permission = Permission(RECORDS, lambda _: None, OPTIONS, fail_closed=True)
    assert permission.pause_s(url) == seconds
