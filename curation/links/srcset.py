"""The ``srcset`` attribute (HTML Living Standard, "parsing a srcset attribute")."""

import re
from typing import NamedTuple

_SPACE = " \t\n\r\f"
_URL = re.compile(rf"[{_SPACE},]*([^{_SPACE}]+)")
_DESCRIPTORS = re.compile(r"((?:\([^)]*\)?|[^,(])*),?")
_WIDTH = re.compile(r"\s*([0-9]{1,9})w\b")
_DENSITY = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?|\.[0-9]{1,9})x\b")


class Candidate(NamedTuple):
    """One picture on offer: the larger ``(width, density)``, the more pixels."""

    width: int  # from a "w" descriptor; 0 without one
    density: float  # from an "x" descriptor; 1 without one
    url: str


def candidates(srcset: str) -> list[Candidate]:
    """The candidates in document order; anything unreadable is left out. URLs may contain commas."""
    found, position = [], 0
    while match := _URL.match(srcset, position):
        position = match.end()
        url, descriptors = match[1], ""
        if url.endswith(","):
            url = url.rstrip(",")
        elif rest := _DESCRIPTORS.match(srcset, position):
            descriptors, position = rest[1], rest.end()
        if url:
            width, density = _WIDTH.match(descriptors), _DENSITY.match(descriptors)
            found.append(Candidate(int(width[1]) if width else 0, float(density[1]) if density else 1.0, url))
    return found
