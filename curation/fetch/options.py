"""How URLs are fetched."""

import ipaddress
import re

from pydantic import Field, field_validator

from conf import Section
from curation.links.rights import check_names

_PATTERN = re.compile(r"(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")


class FetchPolicy(Section):
    """Limits and manners: what may change the outcome.

    Attributes:
        timeout_s: for one request, from the name look-up to the last byte.
        max_bytes: of a body, as sent and as unpacked.
        max_redirects: followed for one URL.
        retries: further attempts after a failure that may pass (no connection, time-out, 429, 5xx).
        requests_per_s: of one host, over the whole run; its ``Crawl-delay`` may ask for fewer. To where the robots.txt
            of other hosts redirect, each task keeps to it for itself.
        connections_per_host: open at once.
        max_crawl_delay_s: no host is waited for longer between two requests, whatever its robots.txt asks.
        max_retry_after_s: the longest ``Retry-After`` that is waited for; where a server asks for more, no further
            attempt is made.
        user_agent: sent with every request; its part before the slash is what robots.txt calls us. Name a contact.
        disallowed_header_directives: response headers that forbid the use, by the names of
            :mod:`curation.links.rights`. ``none`` is said of a page in place of ``noindex``, and so refused with it.
    """

    timeout_s: float = Field(default=20.0, gt=0)
    max_bytes: int = Field(default=32 << 20, gt=0)
    max_redirects: int = Field(default=5, ge=0)
    retries: int = Field(default=1, ge=0, le=10)
    requests_per_s: float = Field(default=10.0, gt=0)
    connections_per_host: int = Field(default=4, gt=0)
    max_crawl_delay_s: float = Field(default=10.0, ge=0)
    max_retry_after_s: float = Field(default=30.0, ge=0)
    user_agent: str = Field(default="openlvd/0.1 (+contact not configured)", pattern=r"^[!-.0-9A-~][ -~]*$")
    disallowed_header_directives: list[str] = ["noai", "noimageai", "noindex", "noimageindex"]

    @field_validator("disallowed_header_directives")
    @classmethod
    def _directives_are_known(cls, directives: list[str]) -> list[str]:
        return check_names(directives)

    @property
    def agent_token(self) -> str:
        """The product token that X-Robots-Tag headers and robots.txt groups address us by."""
        return product_token(self.user_agent)


class FetchOptions(FetchPolicy):
    """A policy, and how it is carried out on this machine.

    Attributes:
        threads: URLs fetched at once in a shard.
        resolve: host or ``*.suffix`` -> ``address:port`` that is connected to instead of asking the resolver: the
            only way to a private or loopback address.
    """

    threads: int = Field(default=16, gt=0, le=1024)
    resolve: dict[str, str] = {}

    @field_validator("resolve")
    @classmethod
    def _resolve_is_readable(cls, resolve: dict[str, str]) -> dict[str, str]:
        for pattern, target in resolve.items():
            if not _PATTERN.fullmatch(pattern):
                raise ValueError(f"{pattern!r} is neither a host name nor *.suffix")
            parse_address(target)
        return resolve

    def mapped(self, host: str) -> tuple[str, int] | None:
        """Address and port that ``resolve`` names for a host; an exact name goes before a longer suffix."""
        suffixes = [f"*.{host.split('.', n)[n]}" for n in range(1, host.count(".") + 1)]
        for pattern in (host, *suffixes):
            if pattern in self.resolve:
                return parse_address(self.resolve[pattern])
        return None


def product_token(user_agent: str) -> str:
    """``openlvd`` of ``openlvd/0.1 (+contact)``."""
    return user_agent.partition("/")[0].partition(" ")[0]


def parse_address(target: str) -> tuple[str, int]:
    """Split ``127.0.0.1:8080`` or ``[::1]:8080``.

    Raises:
        ValueError: no IP address, or no port.
    """
    address, _, port = target.rpartition(":")
    try:
        checked = str(ipaddress.ip_address(address.removeprefix("[").removesuffix("]")))
    except ValueError as error:
        raise ValueError(f"{target!r} is not address:port, as in 127.0.0.1:8080") from error
    if not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise ValueError(f"{target!r} is not address:port, as in 127.0.0.1:8080")
    return checked, int(port)
