"""Records of WAT files: what Common Crawl's extractor kept of a capture, as JSON.

It keeps ``src`` and ``alt`` of ``<img>``, ``<meta>``, ``<link>``, ``<a>``, ``<base>`` (the last one, where browsers
take the first) and the headers of the response. It drops ``srcset``, ``<picture>`` and attributes for lazy loading, so
an image that is offered in several sizes comes in that of its ``src``.
"""

import json
from typing import Any, NamedTuple

from curation.links.charset import without_surrogates
from curation.links.elements import Attributes, Elements, alt_text, reference


class Capture(NamedTuple):
    """One response that a WAT record describes.

    Attributes:
        url: of the page.
        status: of HTTP.
        elements: of its HTML; None where it is not HTML.
        headers: (name, value) pairs.
        crawled_at: WARC-Date of the response (ISO 8601), or None.
        file: name of the WARC file that holds the response, or None.
        offset: of the response in that file; of its gzip member in a compressed one.
    """

    url: str
    status: int
    elements: Elements | None
    headers: list[tuple[str, str]]
    crawled_at: str | None
    file: str | None
    offset: int


def capture(payload: bytes) -> Capture | None:
    """Read one record's JSON; None where it describes no response (but a request, or the file itself).

    Raises:
        ValueError: not JSON, or without what makes a capture.
    """
    try:
        record = json.loads(payload)
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error
    except ValueError as error:
        raise ValueError("not JSON") from error
    envelope = _object(_object(record).get("Envelope"))
    if not envelope:
        raise ValueError("no Envelope in the JSON")
    payload_metadata = _object(envelope.get("Payload-Metadata"))
    if "HTTP-Response-Metadata" not in payload_metadata:
        return None
    response = _object(payload_metadata["HTTP-Response-Metadata"])
    header = _object(envelope.get("WARC-Header-Metadata"))
    url = _text(header.get("WARC-Target-URI"))
    if not url:
        raise ValueError("no WARC-Target-URI in the JSON")
    container = _object(record.get("Container"))
    return Capture(
        url=url,
        status=_number(_object(response.get("Response-Message")).get("Status")),
        elements=_elements(_object(response["HTML-Metadata"])) if "HTML-Metadata" in response else None,
        headers=_headers(_object(response.get("Headers"))),
        crawled_at=_text(header.get("WARC-Date")),
        file=_text(container.get("Filename")),
        offset=_number(container.get("Offset")),
    )


def _elements(html: dict[str, Any]) -> Elements:
    head = _object(html.get("Head"))
    links = [_attributes(link) for link in _list(html.get("Links"))]
    links_of_head = [_attributes(link) for link in _list(head.get("Link"))]
    return Elements(
        images=[
            (url, alt_text(link.get("alt")))
            for link in links
            if link.get("path") == "IMG@/src" and (url := reference(link.get("url")))
        ],
        metas=[meta for meta in map(_attributes, _list(head.get("Metas"))) if "content" in meta],
        licences=[
            reference(link["url"])
            for link in [*links_of_head, *links]
            if "url" in link and "license" in (link.get("rel") or "").lower().split()
        ],
        base=reference(head["Base"]) if _text(head.get("Base")) is not None else None,
    )


def _headers(headers: dict[str, Any]) -> list[tuple[str, str]]:
    """Pairs; a header that came more than once is a list in the JSON."""
    return [
        (name, text)
        for name, value in headers.items()
        for one in (value if isinstance(value, list) else [value])
        if (text := _text(one)) is not None
    ]


def _attributes(element: Any) -> Attributes:
    return {name: _text(value) for name, value in _object(element).items()}


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return without_surrogates(value) if isinstance(value, str) else None


def _number(value: Any) -> int:
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0
