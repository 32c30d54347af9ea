"""From one input file to rows of the ``links`` table: what was found, and at once why a link is refused."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, BinaryIO

from curation.links.charset import without_surrogates
from curation.links.html import extract
from curation.links.pages import Broken, Page, read_pages
from curation.links.url_lists import read_url_list
from curation.links.urls import DomainRules, normalise, registrable_domain
from curation.schema import Reason


@dataclass(frozen=True)
class LinkRules:
    """What is refused before anything is asked of the web.

    Attributes:
        crawl: name kept with every link.
        blocked_domains: each blocks its subdomains too.
        opt_out_signals: a page with one of these directives (``noai``) in its headers or markup is not used.
        agent: our product token; directives that name it hold for us.
    """

    crawl: str
    blocked_domains: tuple[str, ...] = ()
    opt_out_signals: tuple[str, ...] = ()
    agent: str = ""
    _opt_out: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_opt_out", frozenset(signal.lower() for signal in self.opt_out_signals))

    @cached_property
    def domains(self) -> DomainRules:
        """The compiled domain list."""
        return DomainRules(list(self.blocked_domains))

    def refusal(self, url: str, rights: list[str]) -> tuple[Reason, str] | None:
        """Why a normalised URL, met on a page with these signals, is not asked for."""
        rule = self.domains.refusing(url)
        if rule is not None:
            return Reason.BLOCKED_DOMAIN, f"rule {rule}"
        signal = next((s for s in rights if s.rpartition(":")[2].lower() in self._opt_out), None)
        return (Reason.PAGE_OPTED_OUT, signal) if signal is not None else None


def links_of_pages(file: BinaryIO, name: str, rules: LinkRules) -> Iterator[list[dict[str, Any]]]:
    """Rows of ``schema.LINKS`` for a WARC or HTML file, a list a page; never raises for bad content."""
    name = without_surrogates(name)
    for page in read_pages(file, name, rules.agent):
        if isinstance(page, Broken):
            yield [_broken(page, name, rules)]
        else:
            yield list(_links_of_page(page, name, rules))


def links_of_list(file: BinaryIO, name: str, rules: LinkRules) -> Iterator[list[dict[str, Any]]]:
    """Rows of ``schema.LINKS`` for a list of URLs, a list a row.

    Raises:
        ValueError: the list has no column of URLs.
    """
    name = without_surrogates(name)
    for entry in read_url_list(file, name):
        if isinstance(entry, Broken):
            yield [_broken(entry, name, rules)]
            continue
        place = {"crawl": rules.crawl, "file": name, "offset": entry.row, "rights": [], "alt": entry.alt}
        try:
            yield [_link(normalise(entry.url), place, rules)]
        except ValueError as error:
            yield [
                {
                    **place,
                    "url": without_surrogates(entry.url),
                    "reason": Reason.MALFORMED_URL.value,
                    "detail": str(error),
                }
            ]


def _links_of_page(page: Page, name: str, rules: LinkRules) -> Iterator[dict[str, Any]]:
    found = extract(page, rules.agent)
    rights = list(found.rights)
    file, offset = page.warc or (name, page.offset)
    place = {
        "page_url": page.url,
        "crawl": rules.crawl,
        "file": file,
        "offset": offset,
        "crawled_at": page.crawled_at,
        "rights": rights,
    }
    for link in found.links:
        if link.error is not None:
            refused = {"reason": Reason.MALFORMED_URL.value, "detail": link.error}
            yield {**place, "url": link.url, "alt": link.alt, **refused}
        else:
            yield _link(link.url, {**place, "alt": link.alt}, rules)
    for number in range(found.data_uris):
        url = f"{name}#{page.offset}/data-{number}"
        yield {**place, "url": url, "reason": Reason.DATA_URI.value, "detail": "the image is inside the page"}


def _link(url: str, place: dict[str, Any], rules: LinkRules) -> dict[str, Any]:
    refusal = rules.refusal(url, place["rights"])
    reason, detail = (None, None) if refusal is None else (refusal[0].value, refusal[1])
    return {**place, "url": url, "domain": registrable_domain(url), "reason": reason, "detail": detail}


def _broken(broken: Broken, name: str, rules: LinkRules) -> dict[str, Any]:
    reason = Reason.BROKEN_FILE if broken.kind == "file" else Reason.BROKEN_RECORD
    return {
        "url": f"{name}#{broken.offset}",
        "crawl": rules.crawl,
        "file": name,
        "offset": broken.offset,
        "rights": [],
        "reason": reason.value,
        "detail": broken.message,
    }
