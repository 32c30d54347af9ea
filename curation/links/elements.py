"""What a page says of its pictures and their use, whether its HTML or a WAT file tells it."""

import re
from typing import NamedTuple

MAX_ALT_CHARS = 2000
_STRIPPED = re.compile(r"[\t\n\r]")  # browsers drop these from URLs wherever they stand

Attributes = dict[str, str | None]


class Elements(NamedTuple):
    """The elements of a page that matter here, each kind in document order.

    Attributes:
        images: reference and alt text of every ``<img>`` with a picture.
        metas: the attributes of every ``<meta>`` with content.
        licences: references of ``<link>`` and ``<a>`` with ``rel=license``.
        base: reference of ``<base>``, or None.
    """

    images: list[tuple[str, str | None]]
    metas: list[Attributes]
    licences: list[str]
    base: str | None


def reference(attribute: str | None) -> str:
    """The URL in an attribute as browsers read it, not yet resolved; empty where there is none."""
    if not attribute:
        return ""
    url = attribute.strip()
    return _STRIPPED.sub("", url) if "\n" in url or "\t" in url or "\r" in url else url


def alt_text(attribute: str | None) -> str | None:
    """An alternative text with its white space folded, cut to ``MAX_ALT_CHARS``; None where there is none."""
    return " ".join(attribute.split())[:MAX_ALT_CHARS] or None if attribute else None
