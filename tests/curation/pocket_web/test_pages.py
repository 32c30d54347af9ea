from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit, urlunsplit

import pytest

from curation.links.rows import LinkRules, links_of_pages
from curation.links.rules import BlockLists, read_rules
from curation.pocket_web.pages import HOSTILE_TEXT, MARKUP, Page, Shown, render

URL = "http://garden.test/photos/a.jpg"


class Sources(HTMLParser):
    """An independent reader: every attribute that may name a picture, resolved as the standard library does."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self.base, self.urls, self.tags = base, [], set()

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.tags.add(tag)
        if tag == "base":
            self.base = named["href"]
        sources = [named[key] for key in ("src", "data-src") if key in named]
        sources += [part.split()[0] for part in named.get("srcset", "").split(",") if part]
        sources += [named["content"]] if named.get("property") == "og:image" else []
        for source in sources:
            parts = urlsplit(urljoin(self.base, source.strip()))
            host = parts.netloc.lower().removesuffix(":80")
            self.urls.append(urlunsplit((parts.scheme, host, parts.path, parts.query, "")))


@pytest.mark.parametrize("base", [None, "http://garden.test/gallery/"])
@pytest.mark.parametrize("markup", MARKUP)
def test_every_markup_points_at_the_picture(markup, base):
    page = Page("http://garden.test/pages/1.html", "One", (Shown(URL, "a", markup),), base=base)
    reader = Sources(page.url)
    reader.feed(render(page).decode())
    assert URL in reader.urls


@pytest.mark.parametrize("markup", sorted(set(MARKUP) - {"og_image"}))
@pytest.mark.parametrize("text", HOSTILE_TEXT)
def test_hostile_alt_texts_stay_attributes(markup, text):
    page = Page("http://garden.test/pages/1.html", text, (Shown(URL, text, markup),))
    reader = Sources(page.url)
    reader.feed(render(page).decode())
    assert "script" not in reader.tags
    assert set(reader.urls) <= {
        URL,
        "http://garden.test/photos/small/a.jpg",
        *(u for u in reader.urls if u[:5] == "data:"),
    }


def test_a_page_is_written_in_its_charset():
    page = Page("http://museum.test/", "Musée", (), charset="iso-8859-1")
    assert "Musée".encode("iso-8859-1") in render(page)


def test_the_link_extraction_finds_what_was_planted(web, truth):
    """Two independent readings of the same pages: the planner's and the extractor's."""
    rules = LinkRules("pocket", BlockLists((read_rules(["blocked.test"], "blocked"),)), ("noai", "noimageai"))
    kept, dropped = set(), {}
    for path in sorted([*(web / "warc").iterdir(), *(web / "html").iterdir()]):
        with path.open("rb") as file:
            rows = [row for batch in links_of_pages(file, path.name, rules) for row in batch.to_pylist()]
        kept |= {row["url"] for row in rows if row["reason"] is None}
        dropped |= {row["url"]: row["reason"] for row in rows if row["reason"] is not None}
    behind_redirect = {url for url in kept if "/moved/" in url}
    assert not behind_redirect
    reachable = {url for tile in truth.tiles if tile.split == "web" for url in tile.urls if "/moved/" not in url}
    reachable |= {case.url for case in truth.cases if case.stage != "extract_links" or case.expected == "keep"}
    assert kept == reachable
    for case in truth.cases:
        if case.stage == "extract_links" and case.expected != "keep":
            assert dropped.pop(case.url) in (case.expected, *case.also), case
    assert dropped == {}
