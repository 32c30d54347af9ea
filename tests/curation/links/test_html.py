import pytest

from curation.links.html import extract
from curation.links.pages import Page
from curation.links.srcset import candidates

URL = "https://garden.test/a/page.html"


def links(html, url=URL, **fields):
    return extract(Page(url, html.encode() if isinstance(html, str) else html, **fields))


def urls(html, **fields):
    return [link.url for link in links(html, **fields).links]


@pytest.mark.parametrize(
    ("html", "found"),
    [
        ('<img src="b.jpg">', ["https://garden.test/a/b.jpg"]),
        ('<img src="/b.jpg">', ["https://garden.test/b.jpg"]),
        ('<img src="//cdn.test/b.jpg">', ["https://cdn.test/b.jpg"]),
        ("<IMG SRC = 'HTTP://CDN.TEST/b c.jpg#x'>", ["http://cdn.test/b%20c.jpg"]),
        ('<img src="\n b\n.jpg ">', ["https://garden.test/a/b.jpg"]),
        ('<img src="b.jpg?a=1&amp;b=2">', ["https://garden.test/a/b.jpg?a=1&b=2"]),
        ("<img><img src><img src=''>", []),
        ('<base href="https://cdn.test/x/"><img src="b.jpg">', ["https://cdn.test/x/b.jpg"]),
        ('<base href="../up/"><img src="b.jpg">', ["https://garden.test/up/b.jpg"]),
        ('<img src="s.jpg" srcset="m.jpg 400w, l.jpg 900w, n.jpg 600w">', ["https://garden.test/a/l.jpg"]),
        ('<img src="s.jpg" srcset="l.jpg 2x">', ["https://garden.test/a/l.jpg"]),
        ('<img src="s.jpg" srcset="same.jpg 1x">', ["https://garden.test/a/same.jpg"]),
        ('<img src="blank.gif" data-src="real.jpg">', ["https://garden.test/a/real.jpg"]),
        ('<img src="blank.gif" data-original="real.jpg">', ["https://garden.test/a/real.jpg"]),
        ('<img data-lazy-src="real.jpg">', ["https://garden.test/a/real.jpg"]),
        ("""<img src="real.jpg" data-src='{"default":"/small.jpg"}'>""", ["https://garden.test/a/real.jpg"]),
        ('<img src="s.jpg" data-srcset="m.jpg 4w, l.jpg 9w">', ["https://garden.test/a/l.jpg"]),
        ('<img src="data:image/gif;base64,R0" data-src="real.jpg">', ["https://garden.test/a/real.jpg"]),
        (
            "<picture><source srcset='w.webp 800w'><source srcset='x.jpg 1600w'><img src='s.jpg'></picture>",
            ["https://garden.test/a/x.jpg"],
        ),
        ("<noscript><img src=b.jpg></noscript>", ["https://garden.test/a/b.jpg"]),
        ("<head><noscript><img src=b.jpg></noscript></head>", ["https://garden.test/a/b.jpg"]),
        ('<meta property="og:image" content="/og.jpg">', ["https://garden.test/og.jpg"]),
        ("<img src=b.jpg><img src=b.jpg#two>", ["https://garden.test/a/b.jpg"]),
        ("<p><table><img src=b.jpg><tr></p><img src=c.jpg", ["https://garden.test/a/b.jpg"]),
        ("<!-- <img src=b.jpg> --><script>'<img src=c.jpg>'</script><svg><image href=d.jpg></svg>", []),
        ("", []),
    ],
)
def test_what_is_found(html, found):
    assert urls(html) == found


def test_alt_texts():
    html = """<img src=a.jpg alt="  two
      words &amp; more "><img src=b.jpg alt=""><img src=c.jpg><img src=b.jpg alt=late>
      <meta property=og:image content=d.jpg><meta property=og:image:alt content=shared>"""
    assert [link.alt for link in links(html).links] == ["two words & more", "late", None, "shared"]


def test_data_uris_are_counted():
    found = links('<img src="data:image/gif;base64,R0"><img src="DATA:,x"><img src=b.jpg>')
    assert (found.data_uris, found.images, len(found.links)) == (2, 3, 1)


def test_malformed_links_say_why():
    found = links('<img src="javascript:alert(1)"><img src="http://[bad/x"><img src="http://a b/"><img src=fine.jpg>')
    assert [(link.url, link.error is None) for link in found.links] == [
        ("javascript:alert(1)", False),
        ("http://[bad/x", False),
        ("http://a b/", False),
        ("https://garden.test/a/fine.jpg", True),
    ]


def test_without_an_address_only_absolute_links_resolve():
    found = links('<img src="b.jpg"><img src="//c.test/d.jpg"><img src="http://c.test/d.jpg">', url="file:page.html")
    assert [link.url for link in found.links if link.error is None] == ["http://c.test/d.jpg"]
    assert len(found.links) == 3


def test_rights():
    html = """<meta name="robots" content="NoAI, follow,noimageai"><meta name="tdm-reservation" content="1">
      <a rel="nofollow license" href="/terms">terms</a><link rel=license href="https://cc.test/by">
      <meta name="description" content="noindex"><meta name="googlebot" content="noindex">"""
    assert links(html, rights=("header:noindex",)).rights == (
        "header:noindex",
        "license:https://cc.test/by",
        "license:https://garden.test/terms",
        "meta:noai",
        "meta:noimageai",
        "meta:tdm-reservation",
    )
    assert links('<meta name="tdm-reservation" content="0">').rights == ()
    assert links("<meta name=TDM-Policy content='https://a.test/policy.json'>").rights == ("meta:tdm-policy",)
    assert links("<a rel='x License' href=/l><a rel=licensed href=/m>").rights == ("license:https://garden.test/l",)


def test_a_meta_of_our_name_addresses_us_and_another_does_not():
    page = Page(URL, b"<meta name=OpenLVD content=noai><meta name=otherbot content=noindex>")
    assert extract(page, "openlvd").rights == ("meta:noai",)
    assert extract(page).rights == ()


@pytest.mark.parametrize(
    ("html", "charset"),
    [
        ("<img src=a.jpg alt='žluť'>".encode("cp1250"), "windows-1250"),
        ("<meta charset=windows-1250><img src=a.jpg alt='žluť'>".encode("cp1250"), None),
        (
            "<meta http-equiv=Content-Type content='text/html; charset=windows-1250'><img src=a.jpg alt='žluť'>".encode(
                "cp1250"
            ),
            "no-such-charset",
        ),
        ("<img src=a.jpg alt='žluť'>".encode(), None),
        ("<img src=a.jpg alt='žluť'>".encode("utf-16"), None),
        ("<meta charset=utf-16><img src=a.jpg alt='žluť'>".encode(), None),
        ("\ufeff<img src=a.jpg alt='žluť'>".encode(), "iso-8859-1"),
    ],
)
def test_charsets(html, charset):
    assert links(html, charset=charset).links[0].alt == "žluť"


def test_a_charset_that_is_a_codec_of_another_kind_is_no_charset():
    for label in ("zip", "rot13", "unicode_escape", "raw_unicode_escape", "idna", "undefined", "utf-7", "utf-7\0"):
        assert links(b"<img src=a.jpg alt='+2AA- \\ud800'>", charset=label).links[0].alt == "+2AA- \\ud800"


def test_bytes_that_are_no_html():
    assert links(bytes(range(256)) * 40).links == []
    assert len(links("<div>" * 20_000 + "<img src=a.jpg>").links) <= 1


def test_the_sources_of_a_picture_are_read_once(monkeypatch):
    read = []
    monkeypatch.setattr("curation.links.html.candidates", lambda text: read.append(text) or candidates(text))
    html = "<picture>" + "".join(f"<source srcset='{n}.jpg {n + 1}w'>" for n in range(50)) + "<img src=s.jpg>" * 30
    assert urls(html) == ["https://garden.test/a/49.jpg"]
    assert len(read) == 50


def test_pictures_keep_their_sources_apart():
    inner = "<picture><source srcset='b.jpg 900w'><img src=t.jpg></picture>"
    html = f"<picture><source srcset='a.jpg 2w'><img src=s.jpg>{inner}<img src=u.jpg></picture><img src=v.jpg>"
    assert urls(html) == [f"https://garden.test/a/{name}.jpg" for name in "abv"]


def test_only_the_first_licences_of_a_page_count():
    html = "".join(f"<a rel=license href=/{n % 40}>" for n in range(39, 500))
    expected = sorted(f"license:https://garden.test/{n % 40}" for n in range(39, 39 + 16))
    assert list(links(html).rights) == expected


@pytest.mark.parametrize(
    "href",
    ["javascript:void(0)", "JavaScript:x", "data:text/html,x", "about:blank", "http://[bad/", "http://a b/", "//c:x/"],
)
def test_a_base_that_browsers_overlook(href):
    assert urls(f"<base href='{href}'><img src=b.jpg>") == ["https://garden.test/a/b.jpg"]
