"""The image links of one page, with their alt texts and the rights signals of the page."""

import re
from dataclasses import dataclass
from urllib.parse import urljoin

from selectolax.lexbor import LexborHTMLParser, LexborNode

from curation.links.charset import decode
from curation.links.pages import Page
from curation.links.rights import meta_signals
from curation.links.srcset import Candidate, candidates
from curation.links.urls import normalise

MAX_ALT_CHARS = 2000
_LAZY_SRC = ("data-src", "data-original", "data-lazy-src", "data-lazy", "data-original-src", "data-url", "data-img-src")
_LAZY_SRCSET = ("data-srcset", "data-lazy-srcset", "data-original-set")
_STRIPPED = re.compile(r"[\t\n\r]")  # browsers drop these from URLs wherever they stand


@dataclass(frozen=True, slots=True)
class Link:
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
    tree = LexborHTMLParser(decode(page.html, page.charset))
    base = _base(tree, page.url)
    found: dict[str, Link] = {}
    data_uris = images = 0
    for raw, alt in [*_img_elements(tree), *_og_images(tree)]:
        images += 1
        if raw[:5].lower() == "data:":
            data_uris += 1
            continue
        link = _link(raw, alt, base)
        known = found.get(link.url)
        if known is None or (known.alt is None and link.alt is not None):
            found[link.url] = link
    return PageLinks(list(found.values()), data_uris, images, tuple(sorted({*page.rights, *_rights(tree, base)})))


def _img_elements(tree: LexborHTMLParser) -> list[tuple[str, str | None]]:
    found = []
    for node in tree.css("img"):
        attributes = node.attributes
        offered = _offered(attributes, _picture_sources(node))
        if offered:
            largest = max(offered, key=lambda c: (not c.url.lower().startswith("data:"), c.width, c.density))
            found.append((largest.url, _text(attributes.get("alt"))))
    return found


def _offered(attributes: dict[str, str | None], sources: list[Candidate]) -> list[Candidate]:
    """Every candidate of one element, the preferred first among equals."""
    sets = [attributes.get(name) for name in ("srcset", *_LAZY_SRCSET)]
    single = [_clean(attributes.get(name)) for name in (*_LAZY_SRC, "src")]
    return [
        *sources,
        *(candidate for text in sets if text for candidate in candidates(text)),
        *(Candidate(0, 1.0, url) for url in single if url),
    ]


def _picture_sources(node: LexborNode) -> list[Candidate]:
    parent = node.parent
    if parent is None or parent.tag != "picture":
        return []
    found: list[Candidate] = []
    for source in parent.css("source"):
        attributes = source.attributes
        for name in ("srcset", *_LAZY_SRCSET):
            found.extend(candidates(attributes.get(name) or ""))
    return found


def _og_images(tree: LexborHTMLParser) -> list[tuple[str, str | None]]:
    found: list[tuple[str, str | None]] = []
    for node in tree.css("meta"):
        attributes = node.attributes
        name = (attributes.get("property") or attributes.get("name") or "").strip().lower()
        content = _clean(attributes.get("content"))
        if name in ("og:image", "og:image:url") and content:
            found.append((content, None))
        elif name == "og:image:alt" and found:
            found[-1] = (found[-1][0], _text(content))
    return found


def _rights(tree: LexborHTMLParser, base: str) -> list[str]:
    found: list[str] = []
    for node in tree.css("meta[name][content]"):
        attributes = node.attributes
        signals = meta_signals(attributes.get("name") or "", attributes.get("content") or "")
        found.extend(f"meta:{signal}" for signal in signals)
    for node in tree.css('link[rel~="license"][href], a[rel~="license"][href]'):
        link = _link(_clean(node.attributes.get("href")), None, base)
        if link.error is None:
            found.append(f"license:{link.url}")
    return found


def _base(tree: LexborHTMLParser, page_url: str) -> str:
    node = tree.css_first("base[href]")
    return _join(page_url, _clean(node.attributes.get("href"))) if node else page_url


def _link(raw: str, alt: str | None, base: str) -> Link:
    try:
        return Link(normalise(_join(base, raw)), alt)
    except ValueError as error:
        return Link(raw, alt, str(error))


def _join(base: str, url: str) -> str:
    try:
        return urljoin(base, url)
    except ValueError:
        return url


def _clean(url: str | None) -> str:
    return _STRIPPED.sub("", url or "").strip()


def _text(alt: str | None) -> str | None:
    folded = " ".join((alt or "").split())[:MAX_ALT_CHARS]
    return folded or None
