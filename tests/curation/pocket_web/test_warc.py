import gzip
import io
import zlib

import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType

from curation.pocket_web import warc

PAGE = warc.Exchange("http://garden.test/a.html", b"<p>" + b"hello " * 400, headers={"X-Robots-Tag": "noai"})


def test_a_reader_gets_the_records_back():
    data = warc.warcinfo("x") + warc.request(PAGE) + warc.response(PAGE)
    records = []
    for record in ArchiveIterator(io.BytesIO(data), record_types=WarcRecordType.any_type, parse_http=True):
        headers = dict(record.http_headers) if record.http_headers is not None else {}
        records.append((record.record_type, record.headers.get("WARC-Target-URI"), headers, record.reader.read()))
    kinds = [kind for kind, *_ in records]
    assert kinds == [WarcRecordType.warcinfo, WarcRecordType.request, WarcRecordType.response]
    _, url, headers, body = records[2]
    assert (url, body, headers["X-Robots-Tag"]) == (PAGE.url, PAGE.body, "noai")
    assert records[1][2]["Host"] == "garden.test"


def test_bodies_travel_chunked_and_compressed():
    zipped = warc.Exchange(PAGE.url, PAGE.body, transfer="gzip").http()
    assert gzip.decompress(zipped.partition(b"\r\n\r\n")[2]) == PAGE.body
    chunked = warc.Exchange(PAGE.url, PAGE.body, transfer="chunked").http().partition(b"\r\n\r\n")[2]
    body = b""
    while chunked:
        size, _, rest = chunked.partition(b"\r\n")
        body, chunked = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    assert body == PAGE.body


def test_a_damaged_member_keeps_its_length_and_does_not_decompress():
    member = warc.response(PAGE)
    bad = warc.damaged(member)
    assert len(bad) == len(member)
    with pytest.raises((zlib.error, gzip.BadGzipFile)):
        gzip.decompress(bad)


def test_a_member_cut_in_its_body_has_whole_headers():
    text = zlib.decompressobj(wbits=31).decompress(warc.cut_in_body(PAGE))
    whole = gzip.decompress(warc.response(PAGE))
    assert whole.startswith(text)
    assert whole.find(b"<p>") < len(text) <= len(whole) - len(PAGE.body) // 2
