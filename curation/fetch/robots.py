"""robots.txt (RFC 9309): fetched once for a host, and asked for every URL."""

import functools
import itertools
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urljoin, urlsplit

from protego import Protego

from curation.fetch.guard import Client, Permit
from curation.fetch.options import FetchOptions, product_token
from curation.fetch.outcome import FetchError
from curation.fetch.retry import fetch_patiently
from curation.fetch.turns import Pace
from curation.schema import Reason

MAX_ROBOTS_BYTES = 500 << 10  # RFC 9309, section 2.5: at least this much must be read; what follows is ignored

_AGENT_LINE = re.compile(r"\s*user[- ]?agent\s*:\s*([^\s#].*)", re.IGNORECASE)
_TOKEN = re.compile(r"[^\s/*#]+")
_US, _OTHERS = "us", "others"

_HOSTS_PER_THREAD = 8  # asked before the slowest of them is waited for


@dataclass(frozen=True, slots=True)
class RobotsRecord:
    """A row of the ``robots`` table.

    Attributes:
        host: scheme and authority, as ``https://example.com``: robots.txt holds for exactly these.
        status: "rules" (see ``body``), "allowed_all" (there is none), "unreachable", or "private" where the host has
            an address that must not be asked.
        body: the rules as text, or why there are none.
    """

    host: str
    status: Literal["allowed_all", "rules", "unreachable", "private"]
    body: str


def robots_host(url: str) -> str:
    """Scheme and authority of a normalised URL: the key of its robots record."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def fetch_robots(host: str, client: Client, permit: Permit, pace: Pace, options: FetchOptions) -> RobotsRecord:
    """Fetch the robots.txt of one host; every failure is a record, none raises (RFC 9309, section 2.3.1).

    A 4xx status means that there are no rules; but 429 says "later" and counts as unreachable, like 5xx, time-outs
    and failed connections, and a redirect to a place that must not be asked.

    Args:
        host: scheme and authority, as :func:`robots_host` gives them.
        client: with :func:`robots_limits`.
        permit: is asked about the address and every redirect's target; robots.txt itself needs no robots.txt.
        pace: of all requests, redirects and retries included.
        options: for the retries.
    """
    try:
        fetched = fetch_patiently(urljoin(host, "/robots.txt"), client, permit, pace.wait, options)
    except FetchError as error:
        if error.reason is Reason.PRIVATE_ADDRESS:
            return RobotsRecord(host, "private", error.message)
        absent = error.status is not None and 400 <= error.status < 500 and error.status != 429
        too_long_a_way = error.reason is Reason.TOO_MANY_REDIRECTS  # section 2.3.1.2 counts it as absent
        return RobotsRecord(host, "allowed_all" if absent or too_long_a_way else "unreachable", error.message)
    return RobotsRecord(host, "rules", fetched.body.decode("utf-8-sig", "replace").replace("\0", "�"))


def robots_limits(options: FetchOptions) -> FetchOptions:
    """As for images, but for the cap on bytes, the header directives, and at least five redirects (section 2.3.1.2)."""
    return options.model_copy(
        update={
            "max_bytes": MAX_ROBOTS_BYTES,
            "max_redirects": max(5, options.max_redirects),
            "disallowed_header_directives": [],
        }
    )


def ask_hosts(hosts: Iterable[str], permit: Permit, pace: Pace, options: FetchOptions) -> Iterator[list[RobotsRecord]]:
    """:func:`fetch_robots` for many hosts, ``options.threads`` at once.

    Yields:
        The records of the next few hosts, in the order given; no more than these are in memory.
    """
    left = iter(hosts)
    with Client(robots_limits(options)) as client, ThreadPoolExecutor(options.threads) as pool:
        # Executor.map alone would take all hosts at once, and keep every answer behind a slow one.
        while some := list(itertools.islice(left, _HOSTS_PER_THREAD * options.threads)):
            yield list(pool.map(lambda host: fetch_robots(host, client, permit, pace, options), some))
            pace.forget()


def allows(record: RobotsRecord, url: str, user_agent: str, fail_closed: bool = True) -> bool:
    """Whether a host lets us fetch a URL.

    The group is chosen by our product token, the longest matching rule decides, and ``allow`` wins a tie.

    Args:
        record: of the URL's host.
        url: normalised.
        user_agent: the header we send; its product token (the part before the slash) is compared.
        fail_closed: what is unreachable forbids everything, as the RFC asks; False allows everything.
    """
    assert record.host == robots_host(url), (record.host, url)
    match record.status:
        case "allowed_all":
            return True
        case "unreachable":
            return not fail_closed
        case "private":
            return False
    return _rules(record.body, product_token(user_agent)).can_fetch(url, _US)


def crawl_delay_s(record: RobotsRecord, user_agent: str) -> float:
    """Seconds that a host wants between two requests; 0 where it names none."""
    if record.status != "rules":
        return 0.0
    return _rules(record.body, product_token(user_agent)).crawl_delay(_US) or 0.0


def refusal(record: RobotsRecord, url: str, user_agent: str, fail_closed: bool) -> tuple[Reason, str] | None:
    """Why a host's answer forbids to ask for a URL, as reason and detail; None where it does not."""
    if allows(record, url, user_agent, fail_closed):
        return None
    match record.status:
        case "private":
            return Reason.PRIVATE_ADDRESS, record.body
        case "unreachable":
            return Reason.ROBOTS_UNREACHABLE, f"{record.host}/robots.txt: {record.body}"
    return Reason.ROBOTS_DISALLOWED, f"{record.host}/robots.txt"


@functools.lru_cache(maxsize=256)
def _rules(body: str, token: str) -> Protego:
    """The rules, with our groups addressed to ``_US``.

    Protego takes a group's name for ours where ours begins with it ("open" for "openlvd"). Section 2.2.1 wants the
    same product token, in any case; so each name is replaced by one that can only be equal to ours or different.
    """
    lines = []
    for line in body.splitlines():
        named = _AGENT_LINE.match(line)
        if named:
            name = _TOKEN.match(named[1])
            ours = name is not None and name[0].lower() == token.lower()
            line = f"User-agent: {'*' if named[1].startswith('*') else _US if ours else _OTHERS}"
        lines.append(line)
    return Protego.parse("\n".join(lines))
