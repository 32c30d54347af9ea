"""Rights signals as sites write them: robots directives and TDM reservations.

Names are those of the signals themselves ("noai", "tdm-reservation"); whoever observes one says where, as in
``header:noai`` or ``meta:noai``.
"""

import re
from collections.abc import Iterable

DIRECTIVES = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
# W3C TDM Reservation Protocol: "1" reserves text and data mining; the policy is the URL where it can be licensed
TDM_RESERVATION, TDM_POLICY = "tdm-reservation", "tdm-policy"
HEADERS = frozenset({"x-robots-tag", TDM_RESERVATION, TDM_POLICY})  # the only ones that can hold a signal

NAMES = DIRECTIVES | {TDM_RESERVATION, TDM_POLICY}

_DIRECTIVES_WITH_VALUE = frozenset(
    {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview", "indexifembedded"}
)

_AGENT = re.compile(r"[a-z][a-z0-9_.-]*")  # a product token, unlike the "25 jun 2010 15" of a date


def check_names(signals: list[str]) -> list[str]:
    """Signals as a configuration lists them, unchanged.

    Raises:
        ValueError: there is no signal of such a name.
    """
    for signal in signals:
        if signal not in NAMES:
            raise ValueError(f"no signal is called {signal!r}; known are {', '.join(sorted(NAMES))}")
    return signals


def header_signals(headers: Iterable[tuple[str, str]], agent: str = "") -> list[str]:
    """Signals in HTTP response headers, sorted.

    Args:
        headers: (name, value) pairs, names in any case.
        agent: our product token. Directives for another agent ("googlebot: noindex") do not concern us.
    """
    found: set[str] = set()
    for name, value in headers:
        match name.lower():
            case "x-robots-tag":
                found.update(_robots_header(value, agent.lower()))
            case other:
                found.update(_tdm(other, value))
    return sorted(found)


def meta_signals(name: str, content: str, agent: str = "") -> list[str]:
    """Signals in one ``<meta name=... content=...>``, sorted.

    Args:
        name: ``robots`` addresses everybody, the product token of a robot that one alone.
        content: directives, or what the TDM Reservation Protocol has there.
        agent: our product token.
    """
    name = name.strip().lower()
    if name == "robots" or (agent and name == agent.lower()):
        return sorted(_directives(content.lower().split(",")))
    return _tdm(name, content)


def _tdm(name: str, value: str) -> list[str]:
    if (name == TDM_RESERVATION and value.strip() == "1") or (name == TDM_POLICY and value.strip()):
        return [name]
    return []


def _robots_header(value: str, agent: str) -> set[str]:
    said, addressed = [], True
    for token in value.lower().split(","):
        before, colon, after = token.partition(":")
        name = before.strip()
        if colon and name not in _DIRECTIVES_WITH_VALUE and (name == agent or _AGENT.fullmatch(name)):
            addressed = name == agent  # an agent's name holds for the rest of the header line
            token = after
        if addressed:
            said.append(token)
    return _directives(said)


def _directives(tokens: Iterable[str]) -> set[str]:
    """Those of the tokens that we know; "none" means "noindex, nofollow", and says so too."""
    found = {token.strip() for token in tokens} & DIRECTIVES
    return found | {"noindex"} if "none" in found else found
