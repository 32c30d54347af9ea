"""WAT records as Common Crawl's extractor (ia-web-commons) writes them, from HTML by another parser than ours."""

import json
from html.parser import HTMLParser

LINK_ATTRIBUTES = {
    "img": ("src", ("alt", "title")),
    "a": ("href", ("target", "alt", "title", "rel", "hreflang", "type")),
}


class _Extractor(HTMLParser):
    """The extractor's rules for the tags that matter here: it takes every tag as it comes, without a tree."""

    def __init__(self):
        super().__init__()
        self.head, self.links = {}, []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag in LINK_ATTRIBUTES:
            url, others = LINK_ATTRIBUTES[tag]
            if attributes.get(url) is not None:
                kept = {name: attributes[name] for name in others if attributes.get(name) is not None}
                self.links.append({"path": f"{tag.upper()}@/{url}", "url": trimmed(attributes[url]), **kept})
        elif tag == "meta":
            names = ("name", "rel", "content", "http-equiv", "property")
            kept = {name: attributes[name] for name in names if attributes.get(name) is not None}
            if len(kept) > 1:
                self.head.setdefault("Metas", []).append(kept)
        elif tag == "link" and attributes.get("href") is not None:
            kept = {name: attributes[name] for name in ("rel", "type") if attributes.get(name) is not None}
            self.head.setdefault("Link", []).append({"path": "LINK@/href", "url": attributes["href"], **kept})
        elif tag == "base" and attributes.get("href") is not None:
            self.head["Base"] = attributes["href"]


def trimmed(url):
    return url[: url.index(",") + 1] if url.startswith("data:") and "," in url else url


def document(url, html, headers=(), status=200, file="CC-MAIN-1.warc.gz", offset=100, date="2024-05-18T01:58:10Z"):
    """The JSON of one response; a header that comes twice is a list, as the extractor has it."""
    extractor = _Extractor()
    extractor.feed(html)
    extractor.close()
    listed = {}
    for name, value in headers:
        known = listed.get(name)
        listed[name] = value if known is None else [*(known if isinstance(known, list) else [known]), value]
    response = {
        "Response-Message": {"Version": "HTTP/1.1", "Status": str(status), "Reason": "OK"},
        "Headers": listed,
        "HTML-Metadata": {"Head": extractor.head, "Links": extractor.links},
    }
    return {
        "Container": {"Filename": file, "Compressed": True, "Offset": str(offset)},
        "Envelope": {
            "Format": "WARC/1.0",
            "WARC-Header-Metadata": {"WARC-Type": "response", "WARC-Date": date, "WARC-Target-URI": url},
            "Payload-Metadata": {
                "Actual-Content-Type": "application/http; msgtype=response",
                "HTTP-Response-Metadata": response,
            },
        },
    }


def record(payload, url="http://garden.test/", content_type="application/json"):
    """One WARC record of type metadata."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    head = (
        f"WARC/1.0\r\nWARC-Type: metadata\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2024-05-31T01:17:49Z\r\n"
        f"WARC-Record-ID: <urn:uuid:3d3f4785-c69a-4f8c-968c-d23302c55ef4>\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body + b"\r\n\r\n"
