"""Pages out of one input file: WARC or WAT (plain or gzip) or plain HTML, with whatever is broken reported in place."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import quote

from fastwarc.warc import WarcRecord, WarcRecordType

from curation.links.bodies import BodyError, decoded_body, gunzip_start
from curation.links.elements import Elements
from curation.links.framing import GZIP, Broken, next_record, pass_over, results, truncated
from curation.links.parse import parsed
from curation.links.rights import HEADERS as _RIGHTS_HEADERS
from curation.links.rights import header_signals
from curation.links.wat import capture

MAX_RECORD_BYTES = 8 << 20  # Common Crawl cuts pages at 5 MiB
MAX_TAGS = 100_000  # parsers take a time that is quadratic in how deeply tags are nested: 10,000 a tenth of a second
MAX_ATTRIBUTES = 5_000  # of one tag; parsers compare each with all before it: 40,000 take seconds

_SNIFFED_BYTES = 4096
_CHECKED_WHOLE_BYTES = 512 << 10
_MAX_TAG_BYTES = 128 << 20  # what begins like a tag in a script or a value overlaps others; in hostile pages much
_HTML_TYPES = ("text/html", "application/xhtml+xml")
_HTML_NAMES = (".html", ".htm", ".xhtml", ".shtml")
_WARC_NAMES = (".warc", ".wat")
_HTML_START = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html|head|body|\?xml|!--)", re.IGNORECASE)
# A tag as tokenizers read it (HTML, 13.2.5), up to an attribute too many, of which a byte is the group.
_TAG = re.compile(
    rb"""<[a-zA-Z][^\t\n\f\r />]*+
    (?:[\t\n\f\r /]*+ (?:=[^\t\n\f\r />=]*+|[^\t\n\f\r />=]++) [\t\n\f\r ]*+            # a name
        (?:=[\t\n\f\r ]*+ (?:"[^"]*+"?|'[^']*+'?|[^\t\n\f\r >]*+))?+){0,%d}+     # and its value
    [\t\n\f\r /]*+ ([^>])?"""
    % MAX_ATTRIBUTES,
    re.VERBOSE,
)
_TAG_START = re.compile(rb"<[a-zA-Z]")


@dataclass(frozen=True, slots=True)
class Page:
    """One HTML page as it was crawled.

    Attributes:
        url: its address; a ``file:`` pseudo-address where a plain HTML file names none, so that only absolute
            links resolve.
        html: the body without transfer and content encodings; empty where ``elements`` is set.
        charset: of the Content-Type header, or None.
        offset: byte offset of the record in the file; of its gzip member in a compressed one; of the record in what is
            inside where one member holds several.
        crawled_at: WARC-Date (ISO 8601), or None.
        rights: signals in the response headers, as ``header:noai``.
        elements: what a WAT file tells instead of the HTML, or None.
        warc: name of the WARC file that the WAT file describes, and the offset of the record in it, or None.
    """

    url: str
    html: bytes
    charset: str | None = None
    offset: int = 0
    crawled_at: str | None = None
    rights: tuple[str, ...] = ()
    elements: Elements | None = None
    warc: tuple[str, int] | None = None


def read_pages(
    file: BinaryIO, name: str, agent: str = "", max_record_bytes: int = MAX_RECORD_BYTES
) -> Iterator[Page | Broken]:
    """Read every HTML page of one file; content never raises, it is reported as :class:`Broken`.

    After a broken record the reading goes on at the next gzip member or WARC header. Memory stays below a small
    multiple of ``max_record_bytes``.

    Args:
        file: seekable, at its start.
        name: of the file, relative to its source; its suffix helps to recognise HTML.
        agent: our product token; directives in ``X-Robots-Tag`` headers that name it concern us.
        max_record_bytes: a longer page is Broken.
    """
    head = file.read(_SNIFFED_BYTES)
    file.seek(0)
    if not head:
        yield Broken(0, "file", "empty file")
        return
    start = gunzip_start(head, _SNIFFED_BYTES) if head.startswith(GZIP) else head
    is_damaged = head.startswith(GZIP) and not start
    plain_name = name.lower().removesuffix(".gz")
    if start.startswith(b"WARC/"):
        yield from _read_warc(file, agent, max_record_bytes)
    elif start.startswith(b"filedesc://"):
        yield Broken(0, "file", "ARC file; only WARC is read")
    elif plain_name.endswith(_HTML_NAMES) or _HTML_START.match(start):
        yield _read_html(file, name, head.startswith(GZIP), max_record_bytes)
    elif (is_damaged or plain_name.endswith(_WARC_NAMES)) and next_record(file, 1) is not None:
        yield from _read_warc(file, agent, max_record_bytes)  # its first record is the damaged one
    elif is_damaged:
        yield Broken(0, "file", "damaged gzip")
    elif plain_name.endswith(".paths"):
        yield Broken(0, "file", "list of paths, not a WARC file; name the files it lists as inputs")
    else:
        yield Broken(0, "file", "neither WARC nor HTML")


def _read_warc(file: BinaryIO, agent: str, max_record_bytes: int) -> Iterator[Page | Broken]:
    captures = broken = 0
    for kind, result in results(file, lambda record: _page(record, agent, max_record_bytes)):
        captures += kind in (WarcRecordType.response, WarcRecordType.resource) or isinstance(result, Page)
        broken += isinstance(result, Broken)
        if result is not None:
            yield result
    if not captures and not broken:
        yield Broken(0, "file", "no HTTP responses (a WET or request-only file, or a WAT file of such)")


def _page(record: WarcRecord, agent: str, max_record_bytes: int) -> Page | Broken | None:
    """The page of a record; None where it holds none (a redirect, an image, a request)."""
    offset, kind = record.stream_pos, record.record_type
    if kind == WarcRecordType.unknown and not record.headers.get("WARC-Type"):
        return Broken(offset, "record", "truncated WARC header")
    if kind == WarcRecordType.metadata:
        return _wat_page(record, agent, max_record_bytes)
    if kind not in (WarcRecordType.response, WarcRecordType.resource):
        pass_over(record)
        return None
    if not (record.headers.get("Content-Length") or "").strip().isdigit():
        return Broken(offset, "record", "no valid Content-Length")
    headers: dict[str, str] = {}
    signals: list[str] = []
    content_type = record.headers.get("Content-Type") or ""
    if kind == WarcRecordType.response:
        if not record.is_http:
            pass_over(record)
            return None
        # Lenient: servers send header lines that the strict mode refuses.
        record.parse_http(strict_mode=False)
        if record.http_headers is None or record.http_headers.status_code is None:
            pass_over(record)
            return Broken(offset, "record", "response without an HTTP status line")
        if not 200 <= record.http_headers.status_code < 300:
            pass_over(record)
            return None
        pairs = record.http_headers.to_tuples()
        headers = {name.lower(): value for name, value in reversed(pairs)}  # the first of equal names counts
        if not _RIGHTS_HEADERS.isdisjoint(headers):
            signals = header_signals(pairs, agent)
        content_type = headers.get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type and media_type not in _HTML_TYPES:
        pass_over(record)
        return None
    length = record.content_length  # of the payload: what is left behind the HTTP headers
    if length > max_record_bytes:
        return Broken(offset, "record", f"page larger than {max_record_bytes} bytes")
    body = record.reader.read(length) if length else b""
    if len(body) < length:
        raise truncated(record, len(body))
    try:
        body = decoded_body(
            body, headers.get("transfer-encoding", ""), headers.get("content-encoding", ""), max_record_bytes
        )
    except BodyError as error:
        return Broken(offset, "record", str(error))
    if not media_type and not _HTML_START.match(body):
        return None
    if (why := _too_costly(body)) is not None:
        return Broken(offset, "record", why)
    url = (record.headers.get("WARC-Target-URI") or "").strip("<> ")
    if not url:
        return Broken(offset, "record", "no WARC-Target-URI")
    return Page(
        url=url,
        html=body,
        charset=_charset(content_type),
        offset=offset,
        crawled_at=record.headers.get("WARC-Date"),
        rights=tuple(f"header:{signal}" for signal in signals),
    )


def _wat_page(record: WarcRecord, agent: str, max_record_bytes: int) -> Page | Broken | None:
    offset, length = record.stream_pos, record.content_length
    if (record.headers.get("Content-Type") or "").partition(";")[0].strip().lower() != "application/json":
        pass_over(record)
        return None
    if length > max_record_bytes:
        return Broken(offset, "record", f"record larger than {max_record_bytes} bytes")
    payload = record.reader.read(length) if length else b""
    if len(payload) < length:
        raise truncated(record, len(payload))
    found = capture(payload)
    if found is None or found.elements is None or not 200 <= found.status < 300:
        return None
    return Page(
        url=found.url,
        html=b"",
        offset=offset,
        crawled_at=found.crawled_at,
        rights=tuple(f"header:{signal}" for signal in header_signals(found.headers, agent)),
        elements=found.elements,
        warc=(found.file, found.offset) if found.file is not None else None,
    )


def _read_html(file: BinaryIO, name: str, compressed: bool, max_record_bytes: int) -> Page | Broken:
    html = file.read(max_record_bytes + 1)
    if len(html) > max_record_bytes:
        return Broken(0, "file", f"page larger than {max_record_bytes} bytes")
    if compressed:
        try:
            html = decoded_body(html, "", "gzip", max_record_bytes)
        except BodyError as error:
            return Broken(0, "file", str(error))
    if (why := _too_costly(html)) is not None:
        return Broken(0, "file", why)
    return Page(url=_stated_address(html) or f"file:{quote(name)}", html=html)


def _too_costly(html: bytes) -> str | None:
    """Why a page cannot be parsed in a time that its size allows, or None."""
    if html.count(b"<") > MAX_TAGS:
        return f"page with more than {MAX_TAGS} tags"
    if _has_crowded_tag(html):
        return f"page with a tag of more than {MAX_ATTRIBUTES} attributes"
    return None


def _has_crowded_tag(html: bytes) -> bool:
    """Whether some tag has more than ``MAX_ATTRIBUTES`` attributes.

    Reading the tags takes half as long as the parsing, so it is done only in stretches without ">" that can hold so
    many. A tag with ">" inside its values has no such stretch; large pages, where that can hurt, are read whole.
    """
    if b"\0" in html:
        html = html.replace(b"\0", b"")  # UTF-16
    if len(html) > _CHECKED_WHOLE_BYTES:
        return _is_crowded(html)
    shortest = 2 * MAX_ATTRIBUTES  # a letter and a space each
    start = 0
    while start + shortest <= len(html):
        end = html.rfind(b">", start, start + shortest)
        if end < 0:
            end = html.find(b">", start + shortest)
            end = end if end >= 0 else len(html)
            if _is_crowded(html[start:end]):
                return True
        start = end + 1
    return False


def _is_crowded(html: bytes) -> bool:
    left = _MAX_TAG_BYTES
    for found in _TAG_START.finditer(html):
        tag = _TAG.match(html, found.start())
        assert tag is not None, "every tag has a beginning"
        left -= tag.end() - tag.start()
        if tag[1] is not None or left < 0:
            return True
    return False


def _stated_address(html: bytes) -> str | None:
    """Where a saved page says it came from: rel=canonical, then ``<base>``, then og:url; absolute ones only."""
    tree = parsed(html, None)
    for selector, attribute in (
        ('link[rel~="canonical"][href]', "href"),
        ("base[href]", "href"),
        ('meta[property="og:url"][content]', "content"),
    ):
        node = tree.css_first(selector)
        address = ((node.attributes.get(attribute) if node else None) or "").strip()
        if address.lower().startswith(("http://", "https://")):
            return address
    return None


def _charset(content_type: str) -> str | None:
    match = re.search(r"charset\s*=\s*[\"']?([^\s\"';]+)", content_type, re.IGNORECASE)
    return match[1] if match else None
