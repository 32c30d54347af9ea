"""Which address a host is reached at: never a private one."""

import ipaddress
import socket
import threading
import time
from typing import Any

from curation.fetch.options import FetchOptions
from curation.fetch.outcome import FetchError
from curation.schema import Reason

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address

_KNOWN_FOR_S = 60.0
_MOST_KNOWN = 1 << 14


class Resolver:
    """Looks hosts up, and remembers for a while what they were found at.

    Args:
        options: for the hosts that have a place of their own.
    """

    def __init__(self, options: FetchOptions) -> None:
        self._options = options
        self._known: dict[str, tuple[float, list[str]]] = {}

    def addresses(self, host: str, port: int, timeout_s: float) -> list[tuple[str, int]]:
        """Where to connect for a host, in order of preference; a later call may give what an earlier one checked.

        One private address among several refuses the host: an answer that mixes them is how a rebinding attack looks.

        Raises:
            FetchError: PRIVATE_ADDRESS, CONNECTION_FAILED (no such host), TIMED_OUT.
        """
        mapped = self._options.mapped(host)
        if mapped is not None:
            return [mapped]
        now = time.monotonic()
        until, checked = self._known.get(host, (now, []))
        if until <= now:
            checked = list(dict.fromkeys(_look_up(host, port, timeout_s)))
            for address in checked:
                if not is_public(address):
                    raise FetchError(Reason.PRIVATE_ADDRESS, f"{host} is at a private or reserved address")
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[host] = (now + _KNOWN_FOR_S, checked)
        return [(address, port) for address in checked]


def is_public(address: str) -> bool:
    """Whether an IP address is an ordinary one of the internet.

    False for private, loopback, link-local, multicast, reserved, unspecified and carrier-grade NAT ranges, for
    IPv6 addresses that carry such an IPv4 address, and for anything that is no address.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id or ip.is_site_local or ip.teredo:
            return False
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not (
        ip.is_multicast or ip.is_reserved or ip.is_unspecified or ip.is_loopback or ip.is_link_local or ip.is_private
    )


def _look_up(host: str, port: int, timeout_s: float) -> list[str]:
    """``getaddrinfo`` within a time limit, which it does not have itself: an abandoned look-up ends in its thread."""
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        pass
    answer: list[Any] = []

    def ask() -> None:
        try:
            answer.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            answer.append(error)

    thread = threading.Thread(target=ask, daemon=True, name="openlvd-resolve")
    thread.start()
    thread.join(timeout_s)
    if not answer:
        raise FetchError(Reason.TIMED_OUT, f"looking up {host}")
    if isinstance(answer[0], Exception):
        raise FetchError(Reason.CONNECTION_FAILED, f"{host} has no address")
    return [str(entry[4][0]) for entry in answer[0]]
