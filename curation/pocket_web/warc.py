"""WARC files with fixed dates and record ids, so that the same pages give the same bytes."""

import gzip
import io
import uuid
import zlib
from dataclasses import dataclass, field

from fastwarc.warc import WarcRecord, WarcRecordType

DATE = "2024-05-01T00:00:00Z"


@dataclass(frozen=True)
class Exchange:
    """One answered request as a crawl records it; ``transfer`` is ``plain``, ``chunked`` or ``gzip``."""

    url: str
    body: bytes
    content_type: str = "text/html; charset=utf-8"
    status: str = "200 OK"
    headers: dict[str, str] = field(default_factory=dict)
    transfer: str = "plain"

    def http(self) -> bytes:
        """The answer as it went over the wire."""
        headers = {"Content-Type": self.content_type, **self.headers}
        body = self.body
        if self.transfer == "gzip":
            body = gzip.compress(body, mtime=0)
            headers["Content-Encoding"] = "gzip"
        if self.transfer == "chunked":
            body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in _parts(body, 700)) + b"0\r\n\r\n"
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Content-Length"] = str(len(body))
        lines = [f"HTTP/1.1 {self.status}", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def warcinfo(name: str) -> bytes:
    """The gzip member that opens a file."""
    text = f"software: openlvd pocket web\r\nformat: WARC File Format 1.1\r\nisPartOf: {name}\r\n"
    return _member(WarcRecordType.warcinfo, name, "application/warc-fields", text.encode(), None)


def request(exchange: Exchange) -> bytes:
    """The gzip member of the request."""
    scheme, _, rest = exchange.url.partition("://")
    host, _, path = rest.partition("/")
    assert scheme == "http"
    text = f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: pocket-web\r\n\r\n"
    content_type = "application/http; msgtype=request"
    return _member(WarcRecordType.request, "request " + exchange.url, content_type, text.encode(), exchange.url)


def response(exchange: Exchange) -> bytes:
    """The gzip member of the answer."""
    content_type = "application/http; msgtype=response"
    return _member(WarcRecordType.response, exchange.url, content_type, exchange.http(), exchange.url)


def cut_in_body(exchange: Exchange) -> bytes:
    """The start of the gzip member of the answer: its headers are whole, its page is not."""
    member = response(exchange)
    shortest = len(gzip.decompress(member)) - len(exchange.body) // 2
    for length in range(len(member) - 8, 0, -1):  # the last eight bytes are the checksum
        if len(zlib.decompressobj(wbits=31).decompress(member[:length])) <= shortest:
            return member[:length]
    raise AssertionError("less of a gzip member decompresses to less of the text")


def damaged(member: bytes) -> bytes:
    """A gzip member whose compressed data no longer decompresses; its length stays the same."""
    for start in range(40, len(member) - 24):
        broken = member[:start] + b"\xff" * 16 + member[start + 16 :]
        try:
            zlib.decompressobj(wbits=31).decompress(broken)
        except zlib.error:
            return broken
    raise AssertionError("sixteen bytes of ones damage a deflate stream somewhere")


def _member(kind: WarcRecordType, name: str, content_type: str, content: bytes, url: str | None) -> bytes:
    record = WarcRecord()
    record.init_headers(kind, record_urn=f"uuid:{uuid.uuid5(uuid.NAMESPACE_URL, name)}".encode())
    record.headers["WARC-Date"] = DATE
    if url is not None:
        record.headers["WARC-Target-URI"] = url
    record.headers["Content-Type"] = content_type
    record.set_bytes_content(content)
    out = io.BytesIO()
    record.write(out)
    return gzip.compress(out.getvalue(), mtime=0)


def _parts(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]
