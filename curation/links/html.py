"""The image links of one page, with their alt texts and the rights signals of the page."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from selectolax.lexbor import LexborHTMLParser, LexborNode

from curation.links.charset import as_utf8
from curation.links.pages import Page
from curation.links.rights import meta_signals
from curation.links.srcset import Candidate, candidates
from curation.links.urls import Base

MAX_ALT_CHARS = 2000
_LAZY_SRC = ("data-src", "data-original", "data-lazy-src", "data-lazy", "data-original-src", "data-url", "data-img-src")
_SRCSET = ("srcset", "data-srcset", "data-lazy-srcset", "data-original-set")
_CHOICE = frozenset({*_LAZY_SRC, *_SRCSET})  # attributes that offer something beside src
_WANTED = 'img, meta[content], base[href], link[rel~="license"][href], a[rel~="license"][href]'
_STRIPPED = re.compile(r"[\t\n\r]")  # browsers drop these from URLs wherever they stand

_Attributes = dict[str, str | None]


class Link(NamedTuple):
    """An image that a page shows.

    Attributes:
        url: normalised; where ``error`` is set, the text as the page has it.
        alt: alternative text with its white space folded, or None.
        error: why the URL is malformed, or None.
    """

    url: str
    alt: str | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class PageLinks:
    """What one page yields.

    Attributes:
        links: one for each different URL, in document order; the first alt text that is not empty counts.
        data_uris: number of images whose bytes are written into the page.
        images: number of ``<img>`` elements and ``og:image`` entries looked at.
        rights: the page's own signals, those of its headers included, sorted; as ``meta:noai``, ``header:noai``,
            ``license:<URL>``.
    """

    links: list[Link]
    data_uris: int
    images: int
    rights: tuple[str, ...]


def extract(page: Page) -> PageLinks:
    """Find the images of a page: ``img`` (``src``, ``srcset``, ``picture``, lazy loading), ``noscript``, ``og:image``.

    For an element that offers several sizes, the largest is taken: by width, then by density; with equal sizes an
    attribute for lazy loading goes before ``src``, which then holds a placeholder. Broken markup is read as
    browsers read it.
    """
    images: list[tuple[str, str | None]] = []
    metas: list[_Attributes] = []
    licences: list[str] = []
    base_href: str | None = None
    # One walk over the tree, and one dictionary for an element: both cost more than the parsing when repeated.
    for node in LexborHTMLParser(as_utf8(page.html, page.charset)).css(_WANTED):
        attributes = node.attributes
        match node.tag:
            case "img":
                if url := _largest(node, attributes):
                    images.append((url, _text(attributes.get("alt"))))
            case "meta":
                metas.append(attributes)
            case "base" if base_href is None:
                base_href = _clean(attributes["href"])
            case "link" | "a":
                licences.append(_clean(attributes["href"]))
    base = Base(page.url)
    if base_href is not None:
        base = Base(base.join(base_href))
    images += _og_images(metas)
    links, data_uris = _links(images, base)
    rights = {*page.rights, *_meta_rights(metas), *_licence_rights(licences, base)}
    return PageLinks(links, data_uris, len(images), tuple(sorted(rights)))


def _largest(node: LexborNode, attributes: _Attributes) -> str | None:
    """The URL of the largest picture that an ``<img>`` offers."""
    parent = node.parent
    sources = _picture_sources(parent) if parent is not None and parent.tag == "picture" else []
    if not sources and _CHOICE.isdisjoint(attributes):
        return _clean(attributes.get("src"))
    offered = [
        *sources,
        *_sets(attributes),
        *(Candidate(0, 1.0, url) for name in (*_LAZY_SRC, "src") if (url := _clean(attributes.get(name)))),
    ]  # the preferred first among equals
    if not offered:
        return None
    return max(offered, key=lambda c: (not c.url[:5].lower() == "data:", c.width, c.density)).url


def _picture_sources(picture: LexborNode) -> list[Candidate]:
    return [candidate for source in picture.css("source") for candidate in _sets(source.attributes)]


def _sets(attributes: _Attributes) -> Iterator[Candidate]:
    for name in _SRCSET:
        if text := attributes.get(name):
            yield from candidates(text)


def _og_images(metas: list[_Attributes]) -> list[tuple[str, str | None]]:
    found: list[tuple[str, str | None]] = []
    for attributes in metas:
        name = (attributes.get("property") or attributes.get("name") or "").strip().lower()
        if not name.startswith("og:image"):
            continue
        content = _clean(attributes.get("content"))
        if name in ("og:image", "og:image:url") and content:
            found.append((content, None))
        elif name == "og:image:alt" and found:
            found[-1] = (found[-1][0], _text(content))
    return found


def _links(images: list[tuple[str, str | None]], base: Base) -> tuple[list[Link], int]:
    """The different links, and how many images are data."""
    found: dict[str, Link] = {}
    data_uris = 0
    for raw, alt in images:
        if raw[:5].lower() == "data:":
            data_uris += 1
            continue
        link = _link(raw, alt, base)
        known = found.get(link.url)
        if known is None or (known.alt is None and alt is not None):
            found[link.url] = link
    return list(found.values()), data_uris


def _meta_rights(metas: list[_Attributes]) -> Iterator[str]:
    for attributes in metas:
        if name := attributes.get("name"):
            for signal in meta_signals(name, attributes["content"] or ""):
                yield f"meta:{signal}"


def _licence_rights(references: list[str], base: Base) -> Iterator[str]:
    for reference in references:
        link = _link(reference, None, base)
        if link.error is None:
            yield f"license:{link.url}"


def _link(raw: str, alt: str | None, base: Base) -> Link:
    try:
        return Link(base.resolve(raw), alt)
    except ValueError as error:
        return Link(raw, alt, str(error))


def _clean(url: str | None) -> str:
    if not url:
        return ""
    url = url.strip()
    return _STRIPPED.sub("", url) if "\n" in url or "\t" in url or "\r" in url else url


def _text(alt: str | None) -> str | None:
    return " ".join(alt.split())[:MAX_ALT_CHARS] or None if alt else None
