"""From one input file to rows of the ``links`` table: what was found, and at once why a link is refused."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa

from curation import schema
from curation.links.charset import without_surrogates
from curation.links.html import extract
from curation.links.pages import Broken, Page, read_pages
from curation.links.rules import BlockLists
from curation.links.url_lists import read_url_list
from curation.links.urls import MAX_URL_CHARS, normalise, registrable_domain
from curation.schema import Reason

BATCH_ROWS = 10_000
BATCH_CHARS = 32 << 20  # of URLs and rights, which hostile pages can make long


@dataclass(frozen=True)
class LinkRules:
    """What is refused before anything is asked of the web.

    Attributes:
        crawl: name kept with every link.
        blocked: the lists of what must not be asked for.
        opt_out_signals: a page with one of these directives (``noai``) in its headers or markup is not used.
        agent: our product token; directives that name it hold for us.
    """

    crawl: str
    blocked: BlockLists = field(default_factory=BlockLists)
    opt_out_signals: tuple[str, ...] = ()
    agent: str = ""
    _opt_out: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_opt_out", frozenset(signal.lower() for signal in self.opt_out_signals))

    def opt_out(self, rights: Iterable[str]) -> str | None:
        """The first of a page's signals that says not to use it."""
        return next((signal for signal in rights if signal.rpartition(":")[2].lower() in self._opt_out), None)


class _Place(NamedTuple):
    """What the links of one page or row share."""

    file: str
    offset: int
    page_url: str | None = None
    crawled_at: str | None = None
    rights: tuple[str, ...] = ()


class _Row(NamedTuple):
    url: str
    place: _Place
    alt: str | None = None
    domain: str | None = None
    reason: Reason | None = None
    detail: str | None = None


def links_of_pages(file: BinaryIO, name: str, rules: LinkRules) -> Iterator[pa.RecordBatch]:
    """Rows of ``schema.LINKS`` for a WARC, WAT or HTML file, many pages a batch; never raises for bad content."""
    return _batches(_rows_of_pages(file, without_surrogates(name), rules), rules.crawl)


def links_of_list(file: BinaryIO, name: str, rules: LinkRules) -> Iterator[pa.RecordBatch]:
    """Rows of ``schema.LINKS`` for a list of URLs.

    Raises:
        ValueError: the list has no column of URLs.
    """
    return _batches(_rows_of_list(file, without_surrogates(name), rules), rules.crawl)


def link_of_missing_file(name: str, why: str, rules: LinkRules) -> pa.RecordBatch:
    """The one row of ``schema.LINKS`` for a file that cannot be opened."""
    row = _broken(Broken(0, "file", why), without_surrogates(name))
    return next(_batches([row], rules.crawl))


def _rows_of_pages(file: BinaryIO, name: str, rules: LinkRules) -> Iterator[_Row]:
    for page in read_pages(file, name, rules.agent):
        if isinstance(page, Broken):
            yield _broken(page, name)
        else:
            yield from _rows_of_page(page, name, rules)


def _rows_of_page(page: Page, name: str, rules: LinkRules) -> Iterator[_Row]:
    found = extract(page, rules.agent)
    file, offset = page.warc or (name, page.offset)
    place = _Place(file, offset, page.url, page.crawled_at, found.rights)
    opt_out = rules.opt_out(found.rights)
    for link in found.links:
        if link.error is not None:
            yield _Row(link.url[:MAX_URL_CHARS], place, link.alt, None, Reason.MALFORMED_URL, link.error)
        else:
            yield _link(link.url, place, link.alt, opt_out, rules)
    for number in range(found.data_uris):
        url = f"{name}#{page.offset}/data-{number}"
        yield _Row(url, place, None, None, Reason.DATA_URI, "the image is inside the page")


def _rows_of_list(file: BinaryIO, name: str, rules: LinkRules) -> Iterator[_Row]:
    for entry in read_url_list(file, name):
        if isinstance(entry, Broken):
            yield _broken(entry, name)
            continue
        place = _Place(name, entry.row)
        try:
            url = normalise(entry.url)
        except ValueError as error:
            raw = without_surrogates(entry.url[:MAX_URL_CHARS])
            yield _Row(raw, place, entry.alt, None, Reason.MALFORMED_URL, str(error))
        else:
            yield _link(url, place, entry.alt, None, rules)


def _link(url: str, place: _Place, alt: str | None, opt_out: str | None, rules: LinkRules) -> _Row:
    domain = registrable_domain(url)
    if (refusal := rules.blocked.refusing(url)) is not None:
        if rules.blocked.taken_down is not None and refusal[0] is Reason.TAKEN_DOWN:
            return _Row(rules.blocked.taken_down.token(url), place, None, None, *refusal)
        return _Row(url, place, alt, domain, *refusal)
    if opt_out is not None:
        return _Row(url, place, alt, domain, Reason.PAGE_OPTED_OUT, opt_out)
    return _Row(url, place, alt, domain)


def _broken(broken: Broken, name: str) -> _Row:
    reason = Reason.BROKEN_FILE if broken.kind == "file" else Reason.BROKEN_RECORD
    url = f"{name}#{broken.offset}"
    return _Row(url, _Place(name, broken.offset), reason=reason, detail=broken.message)


def _batches(rows: Iterable[_Row], crawl: str) -> Iterator[pa.RecordBatch]:
    """Rows as Arrow, column by column: a batch a page would cost more than finding its links."""
    held: list[_Row] = []
    chars = 0
    for row in rows:
        held.append(row)
        chars += len(row.url) + len(row.place.page_url or "") + sum(map(len, row.place.rights))
        if len(held) == BATCH_ROWS or chars > BATCH_CHARS:
            yield _batch(held, crawl)
            held, chars = [], 0
    if held:
        yield _batch(held, crawl)


def _batch(rows: list[_Row], crawl: str) -> pa.RecordBatch:
    urls, places, alts, domains, reasons, details = zip(*rows, strict=True)
    files, offsets, pages, times, rights = zip(*places, strict=True)
    columns: dict[str, Any] = {
        "url": urls,
        "page_url": pages,
        "alt": alts,
        "domain": domains,
        "crawl": pa.repeat(crawl, len(rows)),
        "file": files,
        "offset": offsets,
        "crawled_at": times,
        "rights": rights,
        "reason": reasons,
        "detail": details,
    }
    return pa.RecordBatch.from_arrays(
        [pa.array(columns[field.name], field.type) for field in schema.LINKS.schema], schema=schema.LINKS.schema
    )
