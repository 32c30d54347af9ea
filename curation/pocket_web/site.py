"""The pocket web while it is being laid out: served files, behaviours, pages, and the truth beside them."""

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote, urlsplit

from PIL import Image

from curation.images.ids import image_id
from curation.pocket_web import plants
from curation.pocket_web.pages import ANY_HOST, HOSTILE_TEXT, SAME_HOST, Page, Shown, smaller_candidate
from curation.pocket_web.photos import Tile
from curation.pocket_web.truth import Case, TileTruth

HOSTS: dict[str, list[str]] = {
    "ordinary": ["garden.test", "museum.test", "news.test", "science.test", "shop.test", "travel.test"],
    "pictures_only": ["cdn.test"],
    "blocked": ["blocked.test", "images.blocked.test"],
    "page_opts_out": ["optout.test"],
    "header_opts_out": ["header.test"],
    "robots_disallow": ["private.test"],
    "robots_unreachable": ["broken-robots.test"],
    "redirects": ["redirect.test"],
    "faults": ["endless.test", "errors.test"],
    "odd_files": ["attic.test"],
}


@dataclass
class Site:
    """Everything that will be served or crawled; ``files`` maps ``host/path`` to bytes, URLs are without a port."""

    files: dict[str, bytes] = field(default_factory=dict)
    behaviours: dict[str, dict[str, Any]] = field(default_factory=dict)
    pages: list[Page] = field(default_factory=list)
    tiles: list[TileTruth] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)
    unshown: dict[str, list[Shown]] = field(default_factory=dict)  # by host: waiting for an ordinary page
    thumbnails: list[str] = field(default_factory=list)

    def put(self, url: str, data: bytes, **behaviour: Any) -> None:
        """Serve ``data`` under ``url``."""
        parts = urlsplit(url)
        path = parts.netloc + unquote(parts.path)
        if parts.query:
            path += "." + "".join(c if c.isalnum() else "-" for c in parts.query) + ".jpg"
            behaviour["file"] = path
        assert path not in self.files, f"{url} is already served"
        self.files[path] = data
        if behaviour:
            self.behaviours[url] = behaviour

    def show(self, url: str, alt: str) -> None:
        """Have ``url`` shown on an ordinary page."""
        self.unshown.setdefault(urlsplit(url).netloc, []).append(Shown(url, alt))

    def page(self, host: str, title: str, shown: list[Shown], **details: Any) -> Page:
        """Add a page by hand."""
        url = f"http://{host}/pages/{len(self.pages):04}.html"
        page = Page(url, title, tuple(shown), **details)
        self.pages.append(page)
        return page

    def tile(self, tile: Tile, split: str, url: str, data: bytes, **behaviour: Any) -> TileTruth:
        """Serve a distinct tile and record it."""
        self.put(url, data, **behaviour)
        path = f"site/{urlsplit(url).netloc}{unquote(urlsplit(url).path)}"
        if urlsplit(url).query:
            path = "site/" + str(behaviour.get("file") or self.behaviours[url]["file"])
        record = TileTruth(image_id(data), tile.label, split, tile.box, path, (url,))
        self.tiles.append(record)
        return record

    def case(self, kind: str, stage: str, expected: str, url: str, data: bytes | None = None, **details: Any) -> None:
        """Record one planted case; ``data`` are the bytes its URL answers with."""
        identity = None if data is None else image_id(data)
        self.cases.append(Case(kind, stage, expected, url, image_id=identity, **details))

    def lay_out(self) -> None:
        """Spread the pictures that wait over ordinary pages, in every markup there is."""
        number = 0
        everything = [shown for host in sorted(self.unshown) for shown in self.unshown[host]]
        for host in sorted(self.unshown):
            waiting = self.unshown[host]
            start = 0
            while start < len(waiting):
                here = waiting[start : start + 1 + number % 3]
                start += len(here)
                number += 1
                self._ordinary_page(number, host, here, everything)
        self.unshown = {}

    def with_pages(self) -> list[Case]:
        """The cases, each with the first page that shows its URL."""
        shown_on: dict[str, str] = {}
        for page in self.pages:
            for shown in page.pictures:
                shown_on.setdefault(shown.url, page.url)
        return [replace(case, page=case.page or shown_on.get(case.url)) for case in self.cases]

    def _ordinary_page(self, number: int, host: str, here: list[Shown], everything: list[Shown]) -> None:
        ordinary = HOSTS["ordinary"]
        page_host = host if host in ordinary else ordinary[number % len(ordinary)]
        markups = (*SAME_HOST, *ANY_HOST) if page_host == host else ANY_HOST
        shown = []
        for k, picture in enumerate(here):
            markup = markups[(number + 5 * k) % len(markups)]
            shown.append(replace(picture, markup=markup))
            if markup in ("srcset", "picture"):
                self._thumbnail(picture.url)
        if number % 4 == 0:  # many pictures are linked from more than one page
            shown.append(replace(everything[number * 7 % len(everything)], markup="absolute"))
        if number % 25 == 0:
            shown[0] = replace(shown[0], alt=HOSTILE_TEXT[number // 25 % len(HOSTILE_TEXT)])
        based = number % 9 == 0
        title = f"Page {number}: {', '.join(Counter(picture.alt.split(',')[0] for picture in here))}"
        base = f"http://{page_host}/gallery/" if based else None
        self.page(page_host, title, shown, base=base, canonical=number % 8 == 0)

    def _thumbnail(self, url: str) -> None:
        import io

        small = smaller_candidate(url)
        parts = urlsplit(url)
        with Image.open(io.BytesIO(self.files[parts.netloc + unquote(parts.path)])) as image:
            picture = image.convert("RGB").resize((64, 64), Image.Resampling.BICUBIC)
        self.put(small, plants.encode(picture, form=parts.path.rpartition(".")[2], quality=80))
        self.thumbnails.append(small)
