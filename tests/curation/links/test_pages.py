import functools
import gzip
import io
import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.links.pages import Broken, Page, read_pages

packed = functools.partial(gzip.compress, mtime=0)
HTML = b"<!doctype html><title>t</title><img src=a.jpg>"


def record(body=HTML, url="http://garden.test/", kind="response", http=b"HTTP/1.1 200 OK", headers=(), length=None):
    block = body
    if http is not None:
        lines = [http, b"Content-Type: text/html; charset=utf-8", *headers]
        block = b"\r\n".join(lines) + b"\r\n\r\n" + body
    content_type = "application/http; msgtype=response" if http is not None else "text/html"
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2024-05-18T01:58:10Z\r\n"
        f"WARC-Record-ID: <urn:uuid:6d058047-ede2-4a13-be79-90c17c631dd4>\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(block) if length is None else length}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def read(data, name="crawl.warc", **options):
    return list(read_pages(io.BytesIO(data), name, **options))


def pages(data, **options):
    return [item for item in read(data, **options) if isinstance(item, Page)]


def broken(data, name="crawl.warc", **options):
    return [item for item in read(data, name, **options) if isinstance(item, Broken)]


def test_a_page_carries_what_the_record_says():
    data = record(b"first", "http://a.test/") + record(
        headers=[b"X-Robots-Tag: noai, noimageai", b"TDM-Reservation: 1", b"X-Robots-Tag: otherbot: noindex"]
    )
    second = read(data)[1]
    assert second == Page(
        url="http://garden.test/",
        html=HTML,
        charset="utf-8",
        offset=len(record(b"first", "http://a.test/")),
        crawled_at="2024-05-18T01:58:10Z",
        rights=("header:noai", "header:noimageai", "header:tdm-reservation"),
    )


def test_a_gzip_member_a_record():
    data = packed(record(url="http://a.test/")) + packed(record(url="http://b.test/"))
    assert [(p.url, p.offset) for p in pages(data)] == [
        ("http://a.test/", 0),
        ("http://b.test/", len(packed(record(url="http://a.test/")))),
    ]


def test_a_gzip_member_with_several_records_tells_their_places_inside():
    noise = random.Random(0).randbytes(300_000)  # of a cut stream, the last of what could be unpacked is lost
    records = [record(url=f"http://{n}.test/", body=HTML + noise) for n in "abc"]
    found = read(packed(b"".join(records)))
    places = [0, len(records[0]), len(records[0]) + len(records[1])]
    assert [(page.url, page.offset) for page in found] == [
        (f"http://{n}.test/", p) for n, p in zip("abc", places, strict=True)
    ]
    *pages, last = read(packed(b"".join(records))[:-200])
    assert [page.url for page in pages if isinstance(page, Page)] == ["http://a.test/", "http://b.test/"]
    assert (last.kind, last.message) == ("file", "truncated gzip file")


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ([b"Transfer-Encoding: chunked"], b"%x\r\n%s\r\n0\r\n\r\n" % (len(HTML), HTML)),
        ([b"Transfer-Encoding: chunked"], HTML),  # the archive undid it and kept the header
        ([b"Content-Encoding: gzip"], packed(HTML)),
        ([b"Content-Encoding: gzip"], HTML),
        ([b"Content-Encoding: br"], HTML),
    ],
)
def test_encodings_are_undone(headers, body):
    assert [p.html for p in read(record(body, headers=headers))] == [HTML]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (record(b"x", headers=[b"Content-Encoding: br"]), "'br' is not read"),
        (record(packed(HTML)[:-9], headers=[b"Content-Encoding: gzip"]), "truncated gzip"),
        (record(packed(bytes(5000)), headers=[b"Content-Encoding: gzip"]), "unpacks to more than 4000 bytes"),
        (record(bytes(5000)), "larger than 4000 bytes"),
        (record(length=3000), "truncated"),
        (record(length="many"), "Content-Length"),
        (record(http=b"garbage"), "status"),
        (record(url=""), "no WARC-Target-URI"),
    ],
)
def test_a_broken_record_is_reported_and_the_next_is_read(data, message):
    found = read(data + record(url="http://next.test/"), max_record_bytes=4000)
    assert isinstance(found[0], Broken)
    assert found[0].kind == "record"
    assert message in found[0].message
    if "length" not in message.lower() and message != "truncated":
        assert found[1].url == "http://next.test/"


def test_garbage_between_records_costs_only_itself():
    first, last = record(url="http://a.test/"), record(url="http://b.test/")
    for join in (b"garbage\r\n" * 50, b"WARC/1.0 but not really\r\n"):
        for wrap in (bytes, packed):
            found = read(wrap(first) + join + wrap(last))
            assert [item.url for item in found if isinstance(item, Page)] == ["http://a.test/", "http://b.test/"]
            assert 1 <= len([item for item in found if isinstance(item, Broken)]) <= 2


def test_a_damaged_gzip_member_costs_only_itself():
    members = [packed(record(HTML + bytes(range(256)) * 20, f"http://{n}.test/")) for n in "abc"]
    damaged = bytearray(members[1])
    damaged[100:120] = bytes(20)
    found = read(members[0] + bytes(damaged) + members[2])
    assert [item.url for item in found if isinstance(item, Page)] == ["http://a.test/", "http://c.test/"]
    assert [item.kind for item in found if isinstance(item, Broken)] == ["record"]


@pytest.mark.parametrize("wrap", [bytes, packed])
def test_a_truncated_file_gives_its_whole_pages_and_one_report(wrap):
    body = HTML + bytes(range(256)) * 8
    first, second = wrap(record(body, "http://a.test/")), wrap(record(body, "http://b.test/"))
    for cut in range(len(first) + 30, len(first) + len(second) - 40, 11):
        found = read(first + second[: cut - len(first)])
        assert [item.url for item in found if isinstance(item, Page)] == ["http://a.test/"], cut
        assert [item.kind for item in found[1:]] == ["record"], cut


def test_what_is_no_page_is_passed_over():
    data = (
        record(http=b"HTTP/1.1 302 Found")
        + record(http=b"HTTP/1.1 404 Not Found")
        + record(kind="request", http=b"GET / HTTP/1.1")
        + record(kind="revisit")
        + record(b"\xff\xd8\xff").replace(b"text/html; charset=utf-8", b"image/jpeg; charset=utf8")
    )
    assert read(data) == []
    assert [p.url for p in pages(record(kind="resource", http=None))] == ["http://garden.test/"]


@pytest.mark.parametrize(
    ("data", "name", "message"),
    [
        (b"", "a.warc", "empty file"),
        (b"filedesc://x 0 0 text/plain 1\n", "a.arc", "ARC"),
        (b"just words", "a.md", "neither WARC nor HTML"),
        (packed(b"crawl-data/x.warc.gz\n"), "a.paths.gz", "list of paths"),
        (b"\x1f\x8b\x08\x00" + bytes(50), "a.warc.gz", "damaged gzip"),
        (b"\x1f\x8b\x08", "a.warc.gz", "damaged gzip"),
        (record(kind="metadata", http=None), "a.wat", "no HTTP responses"),
        (record(kind="conversion", http=None), "a.wet", "no HTTP responses"),
    ],
)
def test_files_that_hold_no_pages(data, name, message):
    found = read(data, name)
    assert [item.kind for item in found] == ["file"]
    assert message in found[0].message


@pytest.mark.parametrize(
    ("html", "url"),
    [
        (
            '<link rel=canonical href="https://a.test/x"><meta property=og:url content="https://b.test/">',
            "https://a.test/x",
        ),
        ('<base href="https://a.test/x/"><meta property=og:url content="https://b.test/">', "https://a.test/x/"),
        ('<link rel=canonical href="/x"><meta property=og:url content="https://b.test/">', "https://b.test/"),
        ("<img src=a.jpg>", "file:some%20folder/page.html"),
        ('<base href="javascript:x">', "file:some%20folder/page.html"),
    ],
)
def test_a_plain_html_file_says_where_it_is_from(html, url):
    for data, suffix in ((html.encode(), ""), (packed(html.encode()), ".gz")):
        (page,) = read(data, f"some folder/page.html{suffix}")
        assert page.url == url + (suffix if url.startswith("file:") else "")
        assert page.html == html.encode()


def test_memory_is_bounded_by_the_cap():
    bomb = packed(record(bytes(50_000_000)), compresslevel=1)
    tracemalloc.start()
    found = read(bomb + packed(record()), max_record_bytes=1 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [type(item) for item in found] == [Broken, Page]
    assert peak < 8 << 20


def test_a_file_of_nothing_but_boundaries_is_given_up():
    found = read(b"WARC/1.0\r\n" + b"\x1f\x8b\x08\x00" * 100_000)
    assert len(found) < 250
    assert found[-1].kind == "file"


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_mutated_files_never_raise(data):
    whole = b"".join(
        packed(record(url=f"http://{n}.test/", headers=[b"Content-Encoding: gzip"], body=packed(HTML)))
        if n == "b"
        else record(url=f"http://{n}.test/")
        for n in data.draw(st.sampled_from(["aaa", "bbb", "ab"]))
    )
    mutated = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, max(0, len(mutated) - 1)))
        match data.draw(st.sampled_from(["flip", "cut", "splice"])):
            case "flip":
                mutated[at : at + 1] = bytes([data.draw(st.integers(0, 255))])
            case "cut":
                del mutated[at : at + data.draw(st.integers(1, 200))]
            case "splice":
                mutated[at:at] = whole[: data.draw(st.integers(1, 300))]
    for item in read(bytes(mutated)):
        assert isinstance(item, (Page, Broken))


NO_RESPONSES = "no HTTP responses (a WET or request-only file, or a WAT file of such)"
ESCOPETE = "https://an.wikipedia.org/wiki/Escopete"
# every file: its pages with their offsets, and what is reported
REAL_FILES = {
    "CC-MAIN-2024-22.warc.paths.gz": ["list of paths, not a WARC file; name the files it lists as inputs"],
    "SOURCE.md": ["neither WARC nor HTML"],
    "bad.arc": ["ARC file; only WARC is read"],
    "example-bad.warc.gz.bad": [("http://example.com?example=1", 460)],  # one gzip member for all records
    "example-digest.warc": [NO_RESPONSES],
    "example-resource.warc.gz": [("http://example.com/", 802)],
    "example-wrong-chunks.warc.gz": [("http://example.com/", 0)],
    "example.arc": ["ARC file; only WARC is read"],
    "example.warc": [("http://example.com/", 1197)],
    "example.warc.gz": [("http://example.com/", 784)],
    "whirlwind.warc": [(ESCOPETE, 1375)],
    "whirlwind.warc.gz": [(ESCOPETE, 1023)],
    "whirlwind.warc.wat": [NO_RESPONSES],
    "whirlwind.warc.wat.gz": [NO_RESPONSES],
    "whirlwind.warc.wet.gz": [NO_RESPONSES],
}


@pytest.mark.realdata
def test_every_real_file_is_read_or_reported(shared_data):
    found = {}
    for path in sorted((shared_data / "warc").iterdir()):
        with path.open("rb") as file:
            found[path.name] = list(read_pages(file, path.name))
    told = {
        name: [(item.url, item.offset) if isinstance(item, Page) else item.message for item in items]
        for name, items in found.items()
    }
    assert told == REAL_FILES
    assert found["whirlwind.warc"][0].html == found["whirlwind.warc.gz"][0].html


NAMES = b" ".join(b"a%d" % n for n in range(40_000))


@pytest.mark.parametrize(
    "html",
    [
        b"<img %s>" % NAMES,
        b"<img " + NAMES,
        b"<p><img src=%s %s>" % (b"x" * 9_000, NAMES[:60_000]),
        b"<img %s>" % NAMES.replace(b" ", b"/"),
        b"<img %s>" % NAMES.replace(b" ", b'=""'),
        b"<img %s>" % (NAMES * 2).replace(b" ", b"='>' "),
    ],
)
def test_a_tag_of_very_many_attributes_is_refused(html):
    assert [item.message for item in read(record(HTML + html))] == ["page with a tag of more than 5000 attributes"]
    assert [item.message for item in read(HTML + html, "a.html")] == ["page with a tag of more than 5000 attributes"]


@pytest.mark.parametrize(
    "html",
    [
        b'<img src="data:image/svg+xml,%s">' % NAMES,
        b"<img alt = 'a > b' src='data:image/png;base64,%s'>" % (b"iVBORw0K/+" * 80_000),
        b"<img src=data:image/png;base64,%s>" % (b"iVBORw0K+" * 30_000),
        b"<p>%s" % NAMES * 4,
        b"<img a b c>" * 20_000,
        b"<script>%s</script>" % NAMES.replace(b" ", b"<1 "),
        b"<script>%s</script>" % (b"for(i=0;i<n;i++)a[i]=i;" * 2000),
    ],
)
def test_long_values_and_long_texts_are_no_attributes(html):
    assert [type(item) for item in read(record(HTML + html))] == [Page]


@pytest.mark.timeout(60)
def test_tags_that_begin_inside_tags_are_not_read_again_and_again():
    html = b'<a b="' + b"<a " * 4000 + b"\" c='" + b"x" * 7_000_000
    assert [type(item) for item in read(record(HTML + html))] == [Broken]


@pytest.mark.parametrize("codec", ["utf-16-be", "utf-16-le"])
def test_many_attributes_in_two_bytes_a_character(codec):
    assert [type(item) for item in read(record((b"<img %s>" % NAMES).decode().encode(codec)))] == [Broken]


def test_attributes_are_counted_as_browsers_do():
    most = b" ".join(b"a%d = '> x'" % n for n in range(5000))
    padding = b"<p>%s" % (b"x" * 600_000)
    assert [type(item) for item in read(record(HTML + padding + b"<img %s>" % most))] == [Page]
    assert [type(item) for item in read(record(HTML + padding + b"<img %s b>" % most))] == [Broken]
    assert [type(item) for item in read(record(HTML + padding + b'<img =" %s b>' % most))] == [Broken]
