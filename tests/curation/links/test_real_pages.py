"""Links of real pages against lxml, which repairs broken markup by other rules than browsers do."""

import re
from collections import Counter
from urllib.parse import unquote, urldefrag, urljoin

import lxml.html
import pytest
from selectolax.lexbor import LexborHTMLParser

from curation.links.html import extract
from curation.links.pages import Page

URL = "http://fakehost/test/page.html"
OFFERS = ("srcset", "data-srcset", "data-src", "data-original", "data-lazy-src", "data-url")

# All that differs between the URLs of img/@src by lxml and ours, by page, with the cause: "og:image" adds one; an image
# that offers more than its src comes from the attribute named, of the <img> or of the <source> of its <picture>, and
# "src" counts those whose src is therefore not ours.
ONLY_OG_IMAGE = (
    "ars-1 bbc-1 cnn ehow-1 ehow-2 gitlab-blog keep-images la-nacion "
    "links-in-tables medium-3 mozilla-1 msn nytimes-1 nytimes-2 quanta-1 videos-2 wapo-1 yahoo-4"
)
DIFFERENCES = {
    **{f"{name}.html": {"og:image": 1} for name in ONLY_OG_IMAGE.split()},
    "aktualne.html": {"img/srcset": 17, "og:image": 1, "src": 17},
    "bug-1255978.html": {"img/data-original": 17, "og:image": 1, "source/srcset": 1, "src": 1},
    "citylab-1.html": {"img/data-srcset": 2, "og:image": 1, "source/data-srcset": 5},
    "cnet.html": {"img/data-original": 3, "og:image": 1},
    "data-url-image.html": {"img/data-srcset": 1},
    "herald-sun-1.html": {"img/data-src": 5, "og:image": 1},
    "lemonde-1.html": {"img/data-src": 3, "og:image": 1},
    "lifehacker-working.html": {"img/data-src": 1},
    "medicalnewstoday.html": {"img/data-src": 12, "og:image": 1},
    "nytimes-3.html": {"img/srcset": 2, "og:image": 1, "src": 2},
    "seattletimes-1.html": {"img/srcset": 2, "og:image": 1, "src": 3},
    "topicseed-1.html": {"og:image": 1, "source/srcset": 1, "src": 1},
    "v8-blog.html": {"source/srcset": 1, "src": 1},
    "videos-1.html": {"og:image": 1, "source/srcset": 1, "src": 1},
    "wikipedia.html": {"img/srcset": 14, "src": 14},
    "wordpress.html": {"img/srcset": 17, "og:image": 1, "src": 19},
}


@pytest.fixture(scope="module")
def pages(shared_data):
    """Name -> (bytes, what we extract, lxml's tree) for every real page."""
    found = {}
    for path in sorted((shared_data / "html" / "pages").iterdir()):
        html = path.read_bytes()
        tree = lxml.html.document_fromstring(html, parser=lxml.html.HTMLParser(encoding="utf-8"))
        found[path.name] = (html, extract(Page(URL, html, charset="utf-8")), tree)
    return found


def resolved(tree, reference):
    base = urljoin(URL, next((e.get("href") for e in tree.iter("base") if e.get("href")), ""))
    return unquote(urldefrag(urljoin(base, reference.strip())).url)


def offers(tree, element):
    """(attribute, URL) of everything that an <img> offers beside its src."""
    parent = element.getparent()
    elements = [element, *(parent.iter("source") if parent is not None and parent.tag == "picture" else ())]
    for one in elements:
        for name in OFFERS:
            value = one.get(name) or ""
            parts = re.split(r",\s|(?<=\d[wx]),", value) if "srcset" in name else [value]
            yield from ((f"{one.tag}/{name}", resolved(tree, part.split()[0])) for part in parts if part.strip())


def differences(ours, tree):
    """The cause of every URL that only one of the two has; "unexplained" where there is none."""
    images = list(tree.iter("img"))
    sources = [e.get("src") for e in images if (e.get("src") or "").strip()]
    expected = {resolved(tree, src) for src in sources if not src.strip().lower().startswith("data:")}
    found = {unquote(link.url) for link in ours.links}
    where = {url: name for e in images for name, url in offers(tree, e)}
    entries = tree.xpath("//meta[@property='og:image']/@content")
    where |= {resolved(tree, content): "og:image" for content in entries}
    causes = Counter(where.get(url, "unexplained") for url in found - expected)
    for url in expected - found:
        elements = [e for e in images if e.get("src") and resolved(tree, e.get("src")) == url]
        causes["src" if all(set(offers(tree, e)) for e in elements) else "unexplained"] += 1
    return dict(sorted(causes.items()))


@pytest.mark.realdata
def test_every_img_src_is_the_one_lxml_reads(pages):
    compared = 0
    for name, (html, _, tree) in pages.items():
        sources = [node.attributes["src"] or "" for node in LexborHTMLParser(html).css("img[src]")]
        assert sources == tree.xpath("//img/@src"), name  # same number, same order, same text on all 52 pages
        compared += len(sources)
    assert compared > 800


@pytest.mark.realdata
def test_the_urls_agree_with_lxml_but_for_what_is_listed(pages):
    found = {name: differences(ours, tree) for name, (_, ours, tree) in pages.items()}
    assert {name: causes for name, causes in found.items() if causes} == DIFFERENCES


@pytest.mark.realdata
def test_the_number_of_images_agrees_with_lxml(pages):
    for name, (_, ours, tree) in pages.items():
        with_source = [e for e in tree.iter("img") if (e.get("src") or "").strip() or set(offers(tree, e))]
        entries = tree.xpath("//meta[@property='og:image' or @property='og:image:url'][@content!='']")
        assert ours.images == len(with_source) + len(entries), name
