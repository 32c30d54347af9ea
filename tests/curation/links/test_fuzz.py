"""Files mutated at random, with fixed seeds, through the whole reading: bytes in, rows of the links table out."""

import gzip
import io
import random
import re
from dataclasses import dataclass

import pyarrow as pa
import pytest

from curation.links.pages import Broken, Page, read_pages
from curation.links.rows import LinkRules, links_of_pages
from curation.schema import LINKS, Reason
from tests.curation.links.wat_writer import document, record

NUM_FILES = 500
MEMBER = re.compile(rb"\x1f\x8b\x08\x00")
RULES = LinkRules("fuzz", opt_out_signals=("noai",))
ODD_HTML = [
    b"<!doctype html><base href='http://b.test/x/'><picture><source srcset='a 2x, b 900w'><img src=c alt='\xe9'>",
    b"<html><meta charset=shift_jis><img src='\x83\x5c' data-src='//x.test/&#xd800;&#0;' srcset='a 1x,,, b 99999w'>",
    b"<html><meta name=robots content='noai,\xff'><a rel=license href='http://[::1'>x</a><img src='//a\xcc\x81/\\..'>",
    "<html><img src='data:image/png;base64,AAAA' alt='x'><svg><img src=1></svg><select><img src=2>".encode("utf-16"),
    b"<html><table><img src=1><tr><td><template><img src=2></template><noscript><img src=3></noscript><plaintext>",
]


@dataclass(frozen=True)
class Seed:
    """A file to mutate.

    Attributes:
        name: as of the file.
        data: its bytes.
        parts: start and end of every part that can be read by itself, with the addresses of the pages in it.
    """

    name: str
    data: bytes
    parts: tuple[tuple[int, int, tuple[str, ...]], ...] = ()


def members(name, parts):
    """A file of gzip members."""
    found, position = [], 0
    for part in parts:
        urls = tuple(item.url for item in read_pages(io.BytesIO(part), name) if isinstance(item, Page))
        found.append((position, position + len(part), urls))
        position += len(part)
    return Seed(name, b"".join(parts), tuple(found))


def split_members(data):
    """The gzip members of a WARC file; the four bytes do not occur within one here."""
    starts = [match.start() for match in MEMBER.finditer(data)]
    parts = [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]
    for part in parts:
        gzip.decompress(part)
    return parts


@pytest.fixture(scope="module")
def seeds(web):
    whole = (web / "warc" / "crawl-00000.warc.gz").read_bytes()
    crawl = split_members(whole)[:60]
    pages = [item for item in read_pages(io.BytesIO(b"".join(crawl)), "crawl.warc.gz") if isinstance(item, Page)]
    wats = [gzip.compress(record(document(p.url, p.html.decode("utf-8", "replace"))), mtime=0) for p in pages]
    plain = gzip.decompress(b"".join(crawl))
    html = [Seed(f"{n}.html", data) for n, data in enumerate([*ODD_HTML, pages[3].html])]
    return [
        members("crawl.warc.gz", crawl),
        Seed("crawl.warc", plain),
        members("crawl.warc.wat.gz", wats),
        Seed("crawl.warc.wat", gzip.decompress(b"".join(wats))),
        Seed("page.html.gz", gzip.compress(b"".join(ODD_HTML), mtime=0)),
        *html,
    ]


def mutated(rng, data, others):
    """Mutated bytes, and the places of the original that were touched, as (start, end)."""
    out, touched, shift = bytearray(data), [], 0
    places = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice([1, 1, 2, 4, 8])))
    for place in places:
        at = place + shift
        if at < 0 or at >= len(out) or (touched and place < touched[-1][1]):
            continue
        match rng.choice(["flip", "cut", "splice"]):
            case "flip":
                out[at] ^= 1 << rng.randrange(8)
                touched.append((place, place + 1))
            case "cut":
                length = min(rng.choice([1, 3, 40, 700, 5000]), len(out) - at)
                del out[at : at + length]
                touched.append((place, place + length))
                shift -= length
            case "splice":
                other = rng.choice(others)
                start = rng.randrange(len(other))
                piece = other[start : start + rng.choice([1, 5, 60, 900])]
                out[at:at] = piece
                touched.append((place, place))
                shift += len(piece)
    if rng.random() < 0.1:
        keep = rng.randrange(len(out) + 1)
        touched.append((max(0, keep - shift - 10_000), len(data)))  # which bytes these were is not tracked further
        del out[keep:]
    return bytes(out), touched


def check(data, name):
    """Read a file to rows; returns its pages and broken places."""
    items = list(read_pages(io.BytesIO(data), name))
    assert items or data.count(b"WARC/") or MEMBER.search(data), "neither a page nor a report"
    rows = pa.Table.from_batches(links_of_pages(io.BytesIO(data), name, RULES), schema=LINKS.schema)
    rows.validate(full=True)
    reasons = rows["reason"].to_pylist()
    assert set(reasons) <= {None, *(reason.value for reason in Reason)}
    broken = [item for item in items if isinstance(item, Broken)]
    assert sum(reason in ("broken_file", "broken_record") for reason in reasons) == len(broken)
    return [item for item in items if isinstance(item, Page)], broken


def fuzz(seeds, number, seed):
    rng = random.Random(seed)
    for turn in range(number):
        chosen = rng.choice(seeds)
        data, touched = mutated(rng, chosen.data, [other.data for other in seeds])
        pages, broken = check(data, chosen.name)
        found = [page.url for page in pages]
        for start, end, urls in chosen.parts:
            if not any(a < end and start < max(b, a + 1) for a, b in touched):
                lost = [url for url in urls if url not in found]
                assert not lost, (seed, turn, chosen.name, lost, touched, broken)


def test_mutated_files_give_pages_or_reports_and_what_was_not_touched_is_found(seeds):
    fuzz(seeds, NUM_FILES, seed=3)


@pytest.mark.realdata
def test_mutated_real_files(shared_data):
    html = sorted((shared_data / "html" / "pages").iterdir(), key=lambda path: path.stat().st_size)[:12]
    paths = [*sorted((shared_data / "warc").iterdir()), *html]
    fuzz([Seed(path.name, path.read_bytes()) for path in paths], NUM_FILES, seed=4)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "html",
    [
        "<select>" + "<option>x</option>" * 100_000,
        "<div>" * 60_000 + "</p>" * 60_000,
        "<b><i>" * 60_000,
        "<table>" * 100_000 + "<img src=x>",
    ],
)
def test_markup_that_makes_parsers_slow_ends(html):
    pages, broken = check(html.encode(), "page.html")
    assert len(pages) + len(broken) == 1
