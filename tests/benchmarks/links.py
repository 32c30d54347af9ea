"""Image links out of a WARC file: curation.links beside warcio with BeautifulSoup and warcio with lxml.

The peers do less: they join the ``src`` of every ``img`` to the page's address, without ``srcset``, lazy loading,
``og:image``, alt texts, rights signals and one spelling for equal URLs.
"""

import contextlib
import gzip
import io
import itertools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

import lxml.html
from bs4 import BeautifulSoup
from warcio.archiveiterator import ArchiveIterator

from conf import entry_point
from curation.links.html import extract
from curation.links.pages import Page, read_pages
from curation.pocket_web import build, warc
from tests.benchmarks import harness
from tests.conftest import SHARED_DATA

POCKET = "pocket"


@dataclass(frozen=True)
class Found:
    """How many pages were read and how many different links, page by page, they held."""

    num_pages: int
    num_links: int


def main() -> int:
    """Run the benchmark."""
    parser = harness.parser(
        "tests.benchmarks.links",
        "MB of WARC a second, parsed and links extracted, beside warcio with BeautifulSoup and with lxml.",
        "--megabytes 2 --pages pocket",
        rounds=3,
    )
    parser.add_argument("--megabytes", type=float, default=20, help="of the WARC file before its compression")
    real = SHARED_DATA / "html" / "pages"
    parser.add_argument(
        "--pages",
        default=real if real.is_dir() else POCKET,
        help=f"folder of UTF-8 HTML files to repeat, or {POCKET}: the WARC files of the pocket web",
    )
    options = parser.parse_args()
    if not 0 < options.megabytes <= 1000:
        raise ValueError(f"--megabytes {options.megabytes}: give more than 0 and at most 1000")
    pages = str(options.pages)
    members = pocket_members() if pages == POCKET else wrapped_members(Path(pages))
    data, num_bytes = repeated(members, int(options.megabytes * 1e6))
    timing = harness.measure(
        {"ours": lambda: ours(data), "bs4": lambda: peer(data, bs4_links), "lxml": lambda: peer(data, lxml_links)},
        options.rounds,
    )
    for name, found in timing.results.items():
        print(f"{name}: {found.num_pages} pages, {found.num_links} links")
    assert len({found.num_pages for found in timing.results.values()}) == 1, "one of them does not read every page"
    keys = {
        "pages": POCKET if pages == POCKET else "files",
        "num_pages": timing.results["ours"].num_pages,
        "megabytes": num_bytes / 1e6,
        "mb_per_s": num_bytes / 1e6 / timing.median_s(),
        **timing.speedups(),
    }
    harness.finish("links", timing, keys)
    return 0


def pocket_members() -> list[bytes]:
    """The whole WARC files of the pocket web."""
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder) / "web")
        return [file.read_bytes() for file in sorted((Path(folder) / "web" / "warc").glob("crawl-0*.warc.gz"))]


def wrapped_members(folder: Path) -> list[bytes]:
    """One WARC response a file of the folder.

    Raises:
        ValueError: no HTML file in it.
    """
    files = sorted(folder.glob("*.html"))
    if not files:
        raise ValueError(f"--pages {folder}: holds no *.html; name a folder that does, or {POCKET}")
    return [warc.response(warc.Exchange(f"http://pages.test/{k}.html", f.read_bytes())) for k, f in enumerate(files)]


def repeated(members: list[bytes], num_bytes: int) -> tuple[bytes, int]:
    """A gzip WARC file of the members in turn until it holds ``num_bytes``, and how many it does hold."""
    sizes = [len(gzip.decompress(member)) for member in members]
    parts, total = [], 0
    for member, size in itertools.cycle(zip(members, sizes, strict=True)):
        parts.append(member)
        total += size
        if total >= num_bytes:
            return b"".join(parts), total
    raise AssertionError("a cycle ends")


def ours(data: bytes) -> Found:
    """Pages and links by curation.links."""
    links = []
    for page in read_pages(io.BytesIO(data), "benchmark.warc.gz"):
        assert isinstance(page, Page), f"broken: {page}"
        links.append(len(extract(page).links))
    return Found(len(links), sum(links))


def peer(data: bytes, sources: Callable[[bytes], Iterator[str]]) -> Found:
    """Pages by warcio, and links by a function from HTML to the sources of its images."""
    links = []
    for record in ArchiveIterator(io.BytesIO(data)):
        if record.rec_type != "response" or not record.http_headers.get_statuscode().startswith("2"):
            continue
        if not record.http_headers.get_header("Content-Type", "").startswith("text/html"):
            continue
        address = record.rec_headers.get_header("WARC-Target-URI")
        html = record.content_stream().read()
        links.append(len(_joined(address, sources(html))))
    return Found(len(links), sum(links))


def bs4_links(html: bytes) -> Iterator[str]:
    """Sources of images by BeautifulSoup with Python's own parser."""
    soup = BeautifulSoup(html, "html.parser")
    return (image["src"] for image in soup.find_all("img", src=True))


def lxml_links(html: bytes) -> Iterator[str]:
    """Sources of images by lxml."""
    return iter(lxml.html.document_fromstring(html).xpath("//img/@src"))


def _joined(address: str, sources: Iterator[str]) -> set[str]:
    found = set()
    for source in sources:
        with contextlib.suppress(ValueError):  # what urljoin raises on a malformed host
            found.add(urljoin(address, source))
    return {url for url in found if not url.startswith("data:")}


if __name__ == "__main__":
    entry_point(main)
