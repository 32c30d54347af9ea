import copy
import gzip
import io
import json

import pytest

from curation.links.html import extract
from curation.links.pages import Broken, Page, read_pages
from curation.links.wat import capture
from tests.curation.links.wat_writer import document, record

URL = "http://garden.test/a/page.html"
HTML = """<head><base href="/b/"><meta name="robots" content="noai"><meta name=tdm-reservation content=1>
  <meta property="og:image" content="/og.jpg"><link rel="license" href="/licence"></head>
  <p><img src="one.jpg" alt=" one  &amp; a "><img src="//cdn.test/two.jpg#x"><img src=" http://[bad "><img src="">
  <img src="data:image/gif;base64,R0lGOD"><a rel="nofollow License" href="other">terms</a>
  <noscript><img src=three.jpg></noscript>"""
HEADERS = [("Content-Type", "text/html"), ("X-Robots-Tag", "noindex"), ("X-Robots-Tag", "openlvd: noimageai")]


def read(data, **options):
    return list(read_pages(io.BytesIO(data), "crawl.warc.wat.gz", **options))


def found(page, **options):
    links = extract(page, **options)
    return links.links, links.data_uris, links.images, links.rights


def test_a_page_by_its_wat_record_is_the_page_by_its_html():
    data = gzip.compress(record(document(URL, HTML, HEADERS, offset=4711)))
    (page,) = read(data, agent="openlvd")
    assert (page.url, page.offset, page.crawled_at) == (URL, 0, "2024-05-18T01:58:10Z")
    assert page.warc == ("CC-MAIN-1.warc.gz", 4711)
    assert page.rights == ("header:noimageai", "header:noindex")
    assert found(page) == found(Page(URL, HTML.encode(), rights=page.rights))
    assert {link.url for link in extract(page).links} >= {"http://garden.test/b/one.jpg", "http://cdn.test/two.jpg"}
    assert "license:http://garden.test/b/other" in extract(page).rights


@pytest.mark.parametrize(
    ("html", "of_html", "of_wat"),
    [
        # sizes: the extractor keeps src alone
        ('<img src="s.jpg" srcset="l.jpg 2x">', ["l.jpg"], ["s.jpg"]),
        ("<picture><source srcset='w.webp 800w'><img src='s.jpg'></picture>", ["w.webp"], ["s.jpg"]),
        # lazy loading: the placeholder, or nothing
        ('<img src="blank.gif" data-src="real.jpg">', ["real.jpg"], ["blank.gif"]),
        ('<img data-src="real.jpg">', ["real.jpg"], []),
        # no tree: what browsers take for text is a tag to the extractor, and the last base counts
        ("<base href=/one/><base href=/two/><img src=a.jpg>", ["one/a.jpg"], ["two/a.jpg"]),
        ("<template><img src=a.jpg></template>", [], ["a.jpg"]),
    ],
)
def test_where_the_extractor_tells_less_or_other_than_the_html(html, of_html, of_wat):
    root = "http://garden.test/"
    (page,) = read(record(document(root, html)))
    assert [link.url for link in extract(Page(root, html.encode())).links] == [root + path for path in of_html]
    assert [link.url for link in extract(page).links] == [root + path for path in of_wat]


def test_the_pages_of_the_pocket_web_by_warc_and_by_wat(web):
    compared = {}
    for path in sorted((web / "warc").glob("crawl-0*.warc.gz")):
        with path.open("rb") as file:
            pages = [item for item in read_pages(file, path.name) if isinstance(item, Page)]
        for page in pages:
            headers = [(("X-Robots-Tag"), signal.removeprefix("header:")) for signal in page.rights]
            html = page.html.decode(page.charset or "utf-8", "replace")
            (other,) = read(record(document(page.url, html, headers)))
            compared[page.url] = (html, found(page), found(other))
    differing = {url: html for url, (html, ours, wats) in compared.items() if ours != wats}
    # Every difference has one of the causes above.
    assert [url for url, html in differing.items() if not any(s in html for s in ("srcset", "data-src", "data-"))] == []
    assert len(compared) - len(differing) > 50


def broken(change):
    whole = document(URL, HTML)
    change(whole)
    return record(whole)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (record(b"{"), "not JSON"),
        (record(b"[" * 3900), "nested too deeply"),
        (record(b"[]"), "no Envelope"),
        (record(b'{"Envelope": 3}'), "no Envelope"),
        (record(b"\xff\xfe"), "not JSON"),
        (broken(lambda d: d["Envelope"]["WARC-Header-Metadata"].pop("WARC-Target-URI")), "no WARC-Target-URI"),
        (record(b" " * 5000), "larger than 4000"),
    ],
)
def test_a_broken_record_is_reported_and_the_next_is_read(data, message):
    first, second = read(data + record(document(URL, HTML)), max_record_bytes=4000)
    assert isinstance(first, Broken)
    assert message in first.message
    assert second.url == URL


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["Envelope"]["Payload-Metadata"].pop("HTTP-Response-Metadata"),
        lambda d: d["Envelope"]["Payload-Metadata"]["HTTP-Response-Metadata"].pop("HTML-Metadata"),
        lambda d: d["Envelope"]["Payload-Metadata"]["HTTP-Response-Metadata"]["Response-Message"].update(Status="404"),
        lambda d: d["Envelope"]["Payload-Metadata"]["HTTP-Response-Metadata"].pop("Response-Message"),
    ],
)
def test_what_is_no_page_is_passed_over(change):
    whole = document(URL, HTML)
    change(whole)
    assert [item.url for item in read(record(whole) + record(document(URL, HTML)))] == [URL]
    assert [item.message[:17] for item in read(record(whole))] == ["no HTTP responses"]


def places(value, path=()):
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, key))


@pytest.mark.parametrize("odd", [None, 3, "x", [], {}, [[{}]], {"url": 3}, "\ud800", 10**30])
def test_any_value_of_another_kind_is_a_page_or_an_error(odd):
    whole = document(URL, HTML, HEADERS)
    for path in list(places(whole))[1:]:
        mutated = copy.deepcopy(whole)
        inner = mutated
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = odd
        try:
            read_back = capture(json.dumps(mutated).encode())
        except ValueError:
            continue
        if read_back is not None and read_back.elements is not None:
            page = Page(read_back.url, b"", elements=read_back.elements)
            extract(page).links.__repr__().encode()
            [signal.encode() for signal in extract(page).rights]
            [(link.url.encode(), (link.alt or "").encode()) for link in extract(page).links]


@pytest.mark.realdata
def test_the_real_sample_holds_a_request_alone(shared_data):
    for name in ("whirlwind.warc.wat", "whirlwind.warc.wat.gz"):
        items = read((shared_data / "warc" / name).read_bytes())
        assert [(item.kind, item.message[:17]) for item in items] == [("file", "no HTTP responses")]
    whole = (shared_data / "warc" / "whirlwind.warc.wat").read_bytes()
    assert capture(whole[whole.index(b'{"Container"') :].strip()) is None


@pytest.mark.realdata
def test_the_capture_of_the_real_sample_by_warc_and_by_wat(shared_data):
    with (shared_data / "warc" / "whirlwind.warc.gz").open("rb") as file:
        (page,) = [item for item in read_pages(file, "whirlwind.warc.gz") if isinstance(item, Page)]
    (other,) = read(record(document(page.url, page.html.decode())))
    ours, wats = extract(page), extract(other)
    assert (ours.images, ours.data_uris, ours.rights) == (wats.images, wats.data_uris, wats.rights)
    assert [link.alt for link in ours.links] == [link.alt for link in wats.links]
    # Ten images have a srcset, of which the WAT file knows nothing: their URLs differ, and no others.
    differing = [(a.url, b.url) for a, b in zip(ours.links, wats.links, strict=True) if a.url != b.url]
    assert len(differing) == page.html.count(b"srcset=")
