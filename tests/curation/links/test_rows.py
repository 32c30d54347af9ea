import io

import pyarrow as pa
import pytest

from curation import schema
from curation.links import rows
from curation.links.rows import LinkRules, link_of_missing_file, links_of_list, links_of_pages
from curation.links.rules import BlockLists, read_rules
from curation.pocket_web.warc import Exchange, response

RULES = LinkRules("may", BlockLists((read_rules(["bad.test"], "mine"),)), ("noai",))


def crawl():
    """A page of three images, one that opted out, one with a picture inside, and a cut record."""
    bodies = [
        b'<img src="/1.jpg" alt=one><img src="http://bad.test/2.jpg"><img src="mailto:x">',
        b'<meta name=robots content=noai><img src="/3.jpg"><img src="http://a.bad.test/4.jpg">',
        b'<img src="data:image/gif;base64,R0lG"><img src="/5.jpg">',
        b'<img src="/6.jpg">',
    ]
    records = [response(Exchange(f"http://page{k}.test/", body)) for k, body in enumerate(bodies)]
    return b"".join(records)[:-20]


def read(data=None):
    batches = list(links_of_pages(io.BytesIO(data or crawl()), "crawl.warc.gz", RULES))
    assert all(batch.schema == schema.LINKS.schema for batch in batches)
    return batches


def test_each_link_has_one_reason_and_its_page():
    found = {
        row["url"]: (row["page_url"], row["reason"], row["detail"]) for row in pa.Table.from_batches(read()).to_pylist()
    }
    records = [url for url in found if url.startswith("crawl.warc.gz#")]
    inside, broken = sorted(records, key=len, reverse=True)
    assert found.pop(inside) == ("http://page2.test/", "data_uri", "the image is inside the page")
    assert found.pop(broken)[1] == "broken_record"
    assert found == {
        "http://page0.test/1.jpg": ("http://page0.test/", None, None),
        "http://bad.test/2.jpg": ("http://page0.test/", "blocked_domain", "mine: rule bad.test"),
        "mailto:x": ("http://page0.test/", "malformed_url", "scheme 'mailto' is not http or https"),
        "http://page1.test/3.jpg": ("http://page1.test/", "page_opted_out", "meta:noai"),
        "http://a.bad.test/4.jpg": ("http://page1.test/", "blocked_domain", "mine: rule bad.test"),
        "http://page2.test/5.jpg": ("http://page2.test/", None, None),
    }  # fmt: skip


@pytest.mark.parametrize(("most_rows", "most_chars"), [(1, 10**6), (3, 10**6), (100, 1), (100, 50)])
def test_the_rows_do_not_depend_on_the_batches(monkeypatch, most_rows, most_chars):
    (whole,) = read()
    monkeypatch.setattr(rows, "BATCH_ROWS", most_rows)
    monkeypatch.setattr(rows, "BATCH_CHARS", most_chars)
    parts = read()
    assert len(parts) > 1
    assert all(0 < part.num_rows <= most_rows for part in parts)
    assert pa.Table.from_batches(parts).to_pylist() == whole.to_pylist()


def test_an_endless_url_is_cut():
    page = b"<img src='bad:%s'>" % (b"x" * 100_000)
    (batch,) = read(response(Exchange("http://page.test/", page)))
    assert batch.to_pylist()[0]["reason"] == "malformed_url"
    assert len(batch.to_pylist()[0]["url"]) == 8000


def test_a_list_and_a_missing_file():
    (batch,) = links_of_list(io.BytesIO(b"url,alt\nhttp://a.test/1.jpg,x\nhttp://a.bad.test/2,\n"), "l.csv", RULES)
    assert [(row["url"], row["alt"], row["offset"], row["reason"]) for row in batch.to_pylist()] == [
        ("http://a.test/1.jpg", "x", 0, None),
        ("http://a.bad.test/2", None, 1, "blocked_domain"),
    ]
    (row,) = link_of_missing_file("a/b.warc.gz", "no such file", RULES).to_pylist()
    assert (row["url"], row["file"], row["reason"], row["detail"]) == (
        "a/b.warc.gz#0", "a/b.warc.gz", "broken_file", "no such file",
    )  # fmt: skip


def test_the_rights_of_a_page_count_in_the_size_of_a_batch(monkeypatch):
    monkeypatch.setattr(rows, "BATCH_CHARS", 1000)
    licences = b"".join(b"<a rel=license href='/%s%d'>" % (b"x" * 100, n) for n in range(9))
    page = licences + b"".join(b"<img src=%d>" % n for n in range(50))
    batches = read(response(Exchange("http://page.test/", page)))
    assert [batch.num_rows for batch in batches] == [1] * 50
