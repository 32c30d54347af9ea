"""What may be asked: by the rules that block domains, and by the robots.txt of the host."""

from collections.abc import Callable

from curation.fetch.options import FetchOptions
from curation.fetch.outcome import FetchError
from curation.fetch.robots import RobotsRecord, crawl_delay_s, refusal, robots_host
from curation.schema import Reason

Blocked = Callable[[str], tuple[Reason, str] | None]
"""Why a normalised URL is refused, and by which rule; None where it is not."""


class Permission:
    """What a shard may ask for.

    Args:
        records: of the hosts of its URLs. A host without one was not asked, and allows everything.
        blocked: is asked about every URL before its host is.
        options: who we are, and how long a host may make us wait.
        fail_closed: whether a host that is unreachable forbids everything.
    """

    def __init__(
        self, records: dict[str, RobotsRecord], blocked: Blocked, options: FetchOptions, fail_closed: bool
    ) -> None:
        self._records = records
        self._blocked = blocked
        self._options = options
        self._fail_closed = fail_closed

    def check(self, url: str) -> None:
        """Pass a normalised URL that may be asked for, as far as is known.

        Raises:
            FetchError: TAKEN_DOWN, BLOCKED_DOMAIN, BLOCKED_SUFFIX, BLOCKED_PATTERN, ROBOTS_DISALLOWED,
                ROBOTS_UNREACHABLE, PRIVATE_ADDRESS.
        """
        check_blocked(url, self._blocked)
        record = self._records.get(robots_host(url))
        if record is None:
            return
        refused = refusal(record, url, self._options.user_agent, self._fail_closed)
        if refused is not None:
            raise FetchError(*refused)

    def pause_s(self, url: str) -> float:
        """Seconds between two requests to the host of a URL: as configured, or longer where its robots.txt asks so."""
        record = self._records.get(robots_host(url))
        asked = 0.0 if record is None else crawl_delay_s(record, self._options.user_agent)
        return max(1 / self._options.requests_per_s, min(asked, self._options.max_crawl_delay_s))


def check_blocked(url: str, blocked: Blocked) -> None:
    """Pass a URL that no rule refuses.

    Raises:
        FetchError: TAKEN_DOWN, BLOCKED_DOMAIN, BLOCKED_SUFFIX or BLOCKED_PATTERN, with the request or rule.
    """
    refused = blocked(url)
    if refused is not None:
        raise FetchError(*refused)
