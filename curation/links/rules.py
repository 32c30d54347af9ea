"""Lists of what must not be asked for: domains, suffixes, hosts and URL patterns, in the forms such lists come in.

A line is one rule; what follows ``#``, and a line that begins with ``!``, is a comment:

===========================  ========================================================================================
``example.com``              the domain and everything below it (UT1, squidGuard); also ``||example.com^`` (adblock)
``*.xxx`` or ``.xxx``        every name with that ending
``0.0.0.0 a.example.com``    a line of a hosts file (StevenBlack): these hosts alone
``example.com/private/``     URLs of that host that begin so (squidGuard's url lists), with http or https
``*/ads/*.gif|``             a pattern, known by its slash: ``*`` is any text, slashes too, and ``|`` the end of the URL
===========================  ========================================================================================

A pattern is compared with the URL without its scheme, from its start, whatever the case. It is no regular expression:
matching takes time in proportion to the URL, so no list can stall a run.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from curation.links.urls import normalise, normalise_host
from curation.schema import Reason

BLOCKED_DOMAINS = "blocked_domains"  # what the rules that stand in the recipe itself are called
BLOCKED = (Reason.BLOCKED_DOMAIN, Reason.BLOCKED_SUFFIX, Reason.BLOCKED_PATTERN)
MAX_UNREADABLE_SHARE = 0.01  # of a list's lines; the large public lists all hold a few that are no names

_PLAIN = re.compile(r"(?=.{1,253}$)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}")  # nearly every line
_COMMENT = re.compile(r"(?:^|\s)#.*|^!.*|^\[adblock.*", re.IGNORECASE | re.DOTALL)
_SCHEME = re.compile(r"https?://", re.IGNORECASE)
_ADDRESS = re.compile(r"[0-9.]+|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*(?:%\w+)?")
_FORMS = "write example.com, *.xxx, or a pattern with a slash such as example.com/private/ or */ads/*"


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern as it was written, and the texts between its stars."""

    written: str
    pieces: tuple[str, ...]
    closed: bool  # whether the URL must end where it does
    longest: str  # of the pieces: most URLs lack it, which is quick to see

    def matches(self, text: str) -> bool:
        """Whether a lower-case URL without its scheme begins so (is so, where the pattern is closed)."""
        first, *rest = self.pieces
        if not text.startswith(first):
            return False
        if self.closed and not rest:
            return text == first
        last = rest.pop() if self.closed else ""
        at = len(first)
        for piece in rest:  # the leftmost place of each leaves the most room for those behind it
            at = text.find(piece, at)
            if at < 0:
                return False
            at += len(piece)
        return len(text) - at >= len(last) and text.endswith(last)


@dataclass(frozen=True)
class RuleList:
    """The rules of one list, sorted by kind so that a million of them cost a few set look-ups a URL.

    Patterns with a literal host are found by it; each of the others, in ``patterns``, is tried on every URL.
    """

    name: str
    domains: frozenset[str] = frozenset()
    suffixes: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()
    host_patterns: dict[str, list[Pattern]] = field(default_factory=dict)
    patterns: tuple[Pattern, ...] = ()
    num_unreadable: int = 0  # lines that are no rule

    def __len__(self) -> int:
        """Number of different rules."""
        sets = (self.domains, self.suffixes, self.hosts, self.patterns, *self.host_patterns.values())
        return sum(map(len, sets))

    def refusing(self, host: str, names: list[str], text: str) -> tuple[Reason, str] | None:
        """The rule that refuses a URL.

        Args:
            host: of the URL.
            names: the host and every name above it, the longest first.
            text: the URL without its scheme, in lower case.
        """
        for name in names:
            if name in self.domains:
                return Reason.BLOCKED_DOMAIN, name
        if host in self.hosts:
            return Reason.BLOCKED_DOMAIN, f"host {host}"
        for name in names:
            if name in self.suffixes:
                return Reason.BLOCKED_SUFFIX, f"*.{name}"
        for pattern in (*self.host_patterns.get(host, ()), *self.patterns):
            if pattern.longest in text and pattern.matches(text):
                return Reason.BLOCKED_PATTERN, pattern.written
        return None


class TakenDown(Protocol):
    """Knows what was taken down (``curation.takedown.tombstones``)."""

    def refusing(self, url: str) -> tuple[Reason, str] | None:
        """Why a normalised URL is kept out."""

    def token(self, value: str) -> str:
        """What stands in its place, since nobody is to read it again."""


@dataclass(frozen=True)
class BlockLists:
    """Several lists, asked in order, after what was taken down."""

    lists: tuple[RuleList, ...] = ()
    taken_down: TakenDown | None = None

    def refusing(self, url: str) -> tuple[Reason, str] | None:
        """Why a normalised URL must not be asked for, as ``(reason, "<list>: rule <rule>")``, or None."""
        if self.taken_down is not None and (found := self.taken_down.refusing(url)):
            return found
        if not self.lists:
            return None
        text = url.partition("://")[2].lower()
        host = _host(text)
        names = [host]
        while rest := names[-1].partition(".")[2]:
            names.append(rest)
        for rules in self.lists:
            if found := rules.refusing(host, names, text):
                return found[0], f"{rules.name}: rule {found[1]}"
        return None


def read_rules(lines: Iterable[str], name: str) -> RuleList:
    """Read one list, a rule a line (see the module).

    A line that can be no rule stands for no URL, so it is counted and skipped; too many of them mean that the file is
    something else.

    Args:
        lines: with or without line ends.
        name: of the list; each refusal states it.

    Raises:
        ValueError: a line in a hundred or more is no rule; the message names the first.
    """
    domains: set[str] = set()
    suffixes: set[str] = set()
    hosts: set[str] = set()
    patterns: dict[str, Pattern] = {}
    unreadable = read = 0
    first: str | None = None
    for number, line in enumerate(lines, 1):
        rule = line.strip()
        if _PLAIN.fullmatch(rule):
            read += 1
            domains.add(rule)
            continue
        rule = _COMMENT.sub("", rule.lstrip("\ufeff"), count=1).strip()
        if not rule:
            continue
        read += 1
        try:
            if len(fields := rule.split()) > 1:
                hosts.update(_hosts(fields))
            elif "/" in rule:
                pattern = _pattern(rule)
                patterns.setdefault(pattern.written, pattern)
            elif rule.startswith((".", "*.")):
                suffixes.add(normalise_host(rule.lstrip("*").removeprefix(".")))
            elif rule.startswith("||"):
                domains.add(normalise_host(rule[2:].removesuffix("^")))
            else:
                domains.add(normalise_host(rule.removeprefix("[").removesuffix("]")))
        except ValueError as error:
            unreadable += 1
            first = first or f"list {name!r}, line {number}: {rule[:100]!r}: {error}; {_FORMS}"
    if unreadable > MAX_UNREADABLE_SHARE * read:
        raise ValueError(first)
    by_host: dict[str, list[Pattern]] = {}
    for pattern in patterns.values():
        host = _host(pattern.pieces[0]) if "/" in pattern.pieces[0] else ""
        by_host.setdefault(host, []).append(pattern)
    return RuleList(
        name,
        frozenset(domains),
        frozenset(suffixes),
        frozenset(hosts),
        host_patterns={host: found for host, found in by_host.items() if host},
        patterns=tuple(by_host.get("", ())),
        num_unreadable=unreadable,
    )


def _hosts(fields: list[str]) -> list[str]:
    if not _ADDRESS.fullmatch(fields[0]):
        raise ValueError("neither one rule nor an address and its hosts")
    return [normalise_host(host) for host in fields[1:]]


def _pattern(rule: str) -> Pattern:
    """A pattern in the spelling that URLs have; the host is left alone where it holds a star."""
    closed = rule.endswith("|")
    authority, _, path = _SCHEME.sub("", rule, count=1).removesuffix("|").partition("/")
    if "*" not in authority:
        text = normalise(f"http://{authority}/{path}").partition("://")[2]
    else:
        text = authority + normalise(f"http://any.host/{path}").partition("any.host")[2]
    pieces = tuple(text.lower().split("*"))
    return Pattern(rule, pieces, closed, max(pieces, key=len))


def _host(text: str) -> str:
    """The host of a URL without its scheme; an IPv6 address keeps its brackets."""
    authority = text.partition("/")[0]
    if authority.startswith("["):
        return authority.partition("]")[0] + "]"
    return authority.partition(":")[0]
