"""Links of real pages against lxml, which repairs broken markup by other rules than browsers do."""

from urllib.parse import unquote, urldefrag, urljoin

import lxml.html
import pytest

from curation.links.html import extract
from curation.links.pages import Page

URL = "http://fakehost/test/page.html"
ATTRIBUTES = ("src", "srcset", "data-src", "data-srcset", "data-original", "data-lazy-src", "data-url")


@pytest.fixture(scope="module")
def pages(shared_data):
    """Name -> (what we extract, lxml's tree) for every real page."""
    found = {}
    for path in sorted((shared_data / "html" / "pages").iterdir()):
        html = path.read_bytes()
        tree = lxml.html.document_fromstring(html, parser=lxml.html.HTMLParser(encoding="utf-8"))
        found[path.name] = (extract(Page(URL, html, charset="utf-8")), tree)
    return found


def images(tree):
    """Elements that offer a picture, and og:image entries."""
    with_source = [e for e in tree.iter("img") if any((e.get(name) or "").strip() for name in ATTRIBUTES)]
    return len(with_source) + len(tree.xpath("//meta[@property='og:image' or @property='og:image:url'][@content!='']"))


def plain_urls(tree):
    """Resolved ``src`` of the <img> that have nothing else to choose from, by the standard library."""
    base = urljoin(URL, next((e.get("href") for e in tree.iter("base") if e.get("href")), ""))
    for element in tree.iter("img"):
        src = (element.get("src") or "").strip()
        others = [name for name in element.attrib if name.startswith("data-") or name == "srcset"]
        if src and not others and element.getparent().tag != "picture" and not src.startswith("data:"):
            yield urldefrag(urljoin(base, src)).url


@pytest.mark.realdata
def test_the_number_of_images_agrees_with_lxml(pages):
    counts = {name: (ours.images, images(tree)) for name, (ours, tree) in pages.items()}
    # None of the 52 pages differs: such markup as lxml and browsers read differently is not among them.
    assert {name: count for name, count in counts.items() if count[0] != count[1]} == {}
    assert sum(count for count, _ in counts.values()) > 850


@pytest.mark.realdata
def test_plain_links_resolve_as_by_lxml_and_the_standard_library(pages):
    missing, compared = {}, 0
    for name, (ours, tree) in pages.items():
        found = {unquote(link.url) for link in ours.links}
        expected = {unquote(url) for url in plain_urls(tree)}
        compared += len(expected)
        if expected - found:
            missing[name] = sorted(expected - found)
    assert missing == {}
    assert compared > 400
