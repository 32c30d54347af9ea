"""The image links of one page, with their alt texts and the rights signals of the page."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from selectolax.lexbor import LexborCSSSelector, LexborNode

from curation.links.elements import Attributes, Elements, alt_text, reference
from curation.links.pages import Page
from curation.links.parse import parsed
from curation.links.rights import meta_signals
from curation.links.srcset import Candidate, candidates
from curation.links.urls import Base

_LAZY_SRC = ("data-src", "data-original", "data-lazy-src", "data-lazy", "data-original-src", "data-url", "data-img-src")
_SRCSET = ("srcset", "data-srcset", "data-lazy-srcset", "data-original-set")
_CHOICE = frozenset({*_LAZY_SRC, *_SRCSET})  # attributes that offer something beside src
MAX_LICENCES = 16  # of a page, in document order
_WANTED = 'img, meta[content], base[href], link[rel~="license" i][href], a[rel~="license" i][href]'


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
            ``license:<URL>``, of which the first ``MAX_LICENCES`` count.
    """

    links: list[Link]
    data_uris: int
    images: int
    rights: tuple[str, ...]


def extract(page: Page, agent: str = "") -> PageLinks:
    """Find the images of a page: ``img`` (``src``, ``srcset``, ``picture``, lazy loading), ``noscript``, ``og:image``.

    For an element that offers several sizes, the largest is taken: by width, then by density; with equal sizes an
    attribute for lazy loading goes before ``src``, which then holds a placeholder. Broken markup is read as
    browsers read it.

    Args:
        page: as it was crawled.
        agent: our product token; a ``<meta>`` of that name holds for us as one for all robots does.
    """
    elements = page.elements or _elements(page)
    base = Base(page.url)
    if elements.base is not None:
        base = base.rebased(elements.base)
    images = [*elements.images, *_og_images(elements.metas)]
    links, data_uris = _links(images, base)
    rights = {*page.rights, *_meta_rights(elements.metas, agent), *_licence_rights(elements.licences, base)}
    return PageLinks(links, data_uris, len(images), tuple(sorted(rights)))


def _elements(page: Page) -> Elements:
    images: list[tuple[str, str | None]] = []
    metas: list[Attributes] = []
    licences: list[str] = []
    base: str | None = None
    # one walk over the tree, one dictionary an element: every further one can be felt
    root = parsed(page.html, page.charset).root
    pictures: dict[int, list[Candidate]] = {}  # by the node's address: many images may stand in one
    for node in _selector().find(_WANTED, root) if root is not None else ():
        attributes = node.attributes
        tag = node.tag
        if tag == "img":
            if image := _image(node, attributes, pictures):
                images.append(image)
        elif tag == "meta":
            metas.append(attributes)
        elif tag != "base":
            licences.append(reference(attributes["href"]))
        elif base is None:
            base = reference(attributes["href"])
    return Elements(images, metas, licences, base)


@functools.cache
def _selector() -> LexborCSSSelector:
    """One for all pages of a process, which reads them in turn: a new one costs as much as a small page."""
    return LexborCSSSelector()


def _image(
    node: LexborNode, attributes: Attributes, pictures: dict[int, list[Candidate]]
) -> tuple[str, str | None] | None:
    """The URL of the largest picture that an ``<img>`` offers, and its alt text."""
    parent = node.parent
    sources: list[Candidate] = []
    if parent is not None and parent.tag == "picture":
        if (known := pictures.get(parent.mem_id)) is None:
            known = pictures[parent.mem_id] = _best_source(parent)
        sources = known
    if sources or not _CHOICE.isdisjoint(attributes):
        url = _largest(attributes, sources)
    else:
        url = reference(attributes.get("src"))
    return (url, alt_text(attributes.get("alt"))) if url else None


def _largest(attributes: Attributes, sources: list[Candidate]) -> str | None:
    offered = [
        *sources,
        *_sets(attributes),
        *(Candidate(0, 1.0, url) for name in _LAZY_SRC if _is_url(url := reference(attributes.get(name)))),
        *(Candidate(0, 1.0, url) for url in [reference(attributes.get("src"))] if url),
    ]  # the preferred first among equals
    return max(offered, key=_worth).url if offered else None


def _worth(candidate: Candidate) -> tuple[bool, int, float]:
    return candidate.url[:5].lower() != "data:", candidate.width, candidate.density


def _is_url(text: str) -> bool:
    """False for nothing, and for the JSON that some scripts keep their sizes in."""
    return bool(text) and text[0] not in "{["


def _best_source(picture: LexborNode) -> list[Candidate]:
    """The largest that the ``<source>`` children offer, if any: what lies deeper is no choice of this picture's."""
    offered = (c for child in picture.iter() if child.tag == "source" for c in _sets(child.attributes))
    best = max(offered, key=_worth, default=None)
    return [] if best is None else [best]


def _sets(attributes: Attributes) -> Iterator[Candidate]:
    for name in _SRCSET:
        if text := attributes.get(name):
            yield from candidates(text)


def _og_images(metas: list[Attributes]) -> list[tuple[str, str | None]]:
    found: list[tuple[str, str | None]] = []
    for attributes in metas:
        name = (attributes.get("property") or attributes.get("name") or "").strip().lower()
        if not name.startswith("og:image"):
            continue
        content = reference(attributes.get("content"))
        if name in ("og:image", "og:image:url") and content:
            found.append((content, None))
        elif name == "og:image:alt" and found:
            found[-1] = (found[-1][0], alt_text(content))
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


def _meta_rights(metas: list[Attributes], agent: str) -> Iterator[str]:
    for attributes in metas:
        if name := attributes.get("name"):
            for signal in meta_signals(name, attributes["content"] or "", agent):
                yield f"meta:{signal}"


def _licence_rights(licences: list[str], base: Base) -> set[str]:
    """The first licences: every image of the page repeats them."""
    found: set[str] = set()
    for raw in licences:
        link = _link(raw, None, base)
        if link.error is None:
            found.add(f"license:{link.url}")
        if len(found) == MAX_LICENCES:
            break
    return found


def _link(raw: str, alt: str | None, base: Base) -> Link:
    try:
        return Link(base.resolve(raw), alt)
    except ValueError as error:
        return Link(raw, alt, str(error))
