"""Builds the pocket web: plans it, writes it beside its place, and moves it there in one step."""

import json
import shutil
from pathlib import Path

from curation.images.ids import image_id
from curation.pocket_web import plan, plants, warc
from curation.pocket_web.pages import HOSTILE_TEXT, Page, render
from curation.pocket_web.photos import PHOTOGRAPHS, Tile, split, tiles_and_chains
from curation.pocket_web.site import HOSTS, Site
from curation.pocket_web.truth import Case, TileTruth, Truth, totals
from curation.schema import Reason

VERSION = 1  # of the construction; raise it with every change of the bytes
MARKER = "pocket_web.json"
CHAIN_LABELS = ("china", "coffee", "ihc", "motorcycle")
NUM_WARC_FILES = 4
SHARES = {"heldout/train": 6, "heldout/test": 4, "queries": 4, "refused": 2}  # tiles a class


def build(folder: Path, seed: int = 0) -> Truth:
    """Write the pocket web into ``folder`` unless this very web is already there.

    Holds ``site/``, ``warc/``, ``html/``, ``heldout/{train,test}/<class>/``, ``queries/<class>/`` and
    ``truth.json``. The same seed gives the same bytes. A killed build leaves nothing under ``folder``.

    Raises:
        ValueError: the folder holds something else, or a photograph is not carried by the installed packages.
    """
    folder = Path(folder)
    made_by = {"version": VERSION, "seed": seed}
    if folder.exists() and any(folder.iterdir()):
        marker = folder / MARKER
        if not marker.is_file():
            raise ValueError(f"{folder}: holds something else than a pocket web; name an empty or a new folder")
        if json.loads(marker.read_text("utf-8")) == made_by:
            return Truth.read(folder / "truth.json")
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    truth = _write(unfinished, seed)
    (unfinished / MARKER).write_text(json.dumps(made_by) + "\n", encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    unfinished.rename(folder)
    return truth


def _write(folder: Path, seed: int) -> Truth:
    tiles, chains = tiles_and_chains(seed, CHAIN_LABELS)
    dealt = split(tiles, SHARES, seed, concepts_only=("queries",))
    kept_back = {
        name: _labelled_files(folder, name, dealt[name]) for name in ("heldout/train", "heldout/test", "queries")
    }
    site = Site()
    web = sorted(dealt["web"], key=lambda tile: image_id(tile.pixels.tobytes()))
    sources = plan.web_tiles(site, web[6:])
    plan.exact_copies(site, sources[:16])
    plan.near_exact_copies(site, sources[16:32])
    plan.edited_copies(site, sources[32:80])
    plan.chains(site, chains)
    plan.evaluation_copies(site, kept_back["heldout/test"][::3][:22])
    plan.one_face(site)
    plan.unusual_pages(site, web[:4])
    plan.allowed_beside_refused(site, web[4:6])
    refused = sorted(dealt["refused"], key=lambda tile: image_id(tile.pixels.tobytes()))
    plan.refused(site, refused[:23])
    plan.bad_redirects(site)
    plan.faults(site, refused[23])
    plan.odd_files(site, refused[24:], seed)
    plan.bad_links(site)
    site.lay_out()

    _write_site(folder, site)
    broken = _write_pages(folder, site)
    records = [*site.tiles, *(record for pairs in kept_back.values() for _, record in pairs)]
    cases = [*site.with_pages(), *broken]
    concepts = [photograph.label for photograph in PHOTOGRAPHS if photograph.concept]
    truth = Truth(
        version=VERSION,
        seed=seed,
        hosts=HOSTS,
        classes=[photograph.label for photograph in PHOTOGRAPHS],
        concepts=concepts,
        tiles=records,
        cases=cases,
        smaller_candidates=sorted(site.thumbnails),
        hostile_text=list(HOSTILE_TEXT),
        totals=totals(records, cases, pages=len(site.pages), served_files=len(site.files)),
    )
    truth.write(folder / "truth.json")
    return truth


def _labelled_files(folder: Path, name: str, tiles: list[Tile]) -> list[tuple[Tile, TileTruth]]:
    pairs = []
    for tile in tiles:
        path = folder / name / tile.label / f"{tile.name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = plants.encode(tile.pixels)
        path.write_bytes(data)
        record = TileTruth(image_id(data), tile.label, name, tile.box, path.relative_to(folder).as_posix())
        pairs.append((tile, record))
    return pairs


def _write_site(folder: Path, site: Site) -> None:
    for name, data in site.files.items():
        path = folder / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    text = json.dumps(site.behaviours, indent=1, sort_keys=True)
    (folder / "site" / "behaviours.json").write_text(text + "\n", encoding="utf-8")


def _write_pages(folder: Path, site: Site) -> list[Case]:
    """Pages that name their own address as plain files, the others as WARC; the cases are the broken WARC files."""
    (folder / "html").mkdir()
    (folder / "warc").mkdir()
    exchanges = []
    for page in site.pages:
        if page.canonical:
            (folder / "html" / page.url.removeprefix("http://").replace("/", "_")).write_bytes(render(page))
        else:
            exchanges.append(_exchange(page))
    for number in range(NUM_WARC_FILES):
        name = f"crawl-{number:05}.warc.gz"
        members = [warc.warcinfo(name)]
        for exchange in exchanges[number::NUM_WARC_FILES]:
            members += [warc.request(exchange), warc.response(exchange)]
        if number == 0:
            members += [warc.response(exchange) for exchange in _no_pages(site)]
        (folder / "warc" / name).write_bytes(b"".join(members))
    return _write_broken(folder / "warc", exchanges)


def _exchange(page: Page) -> warc.Exchange:
    content_type = "text/html" if page.url.endswith("3.html") else f"text/html; charset={page.charset}"
    return warc.Exchange(page.url, render(page), content_type, headers=page.headers, transfer=page.transfer)


def _no_pages(site: Site) -> list[warc.Exchange]:
    """Answers in the crawl that hold no links: a picture, a text, a redirect, an error."""
    picture = next(name for name in sorted(site.files) if name.endswith(".jpg") and name.startswith("cdn.test/photos"))
    location = {"Location": "http://garden.test/pages/0000.html"}
    return [
        warc.Exchange(f"http://{picture}", site.files[picture], "image/jpeg"),
        warc.Exchange("http://garden.test/notes.txt", b"<img src=/not-a-link.jpg> in a text\n", "text/plain"),
        warc.Exchange("http://garden.test/", b"", status="301 Moved Permanently", headers=location),
        warc.Exchange("http://garden.test/lost.html", b"<p>Not found</p>", status="404 Not Found"),
    ]


def _write_broken(folder: Path, exchanges: list[warc.Exchange]) -> list[Case]:
    """A file cut short and a file with a damaged record, made of pages that other files hold too."""
    cases = []
    members = [warc.response(exchange) for exchange in exchanges[:5]]
    name = "crawl-cut.warc.gz"
    whole = b"".join(members)
    (folder / name).write_bytes(whole[: -len(members[-1]) // 2])
    place = f"{name}#{len(whole) - len(members[-1])}"
    also: tuple[str, ...] = (Reason.BROKEN_RECORD,)
    cases.append(Case("truncated_page_file", "extract_links", Reason.BROKEN_FILE, place, also=also))
    name = "crawl-damaged.warc.gz"
    members = [warc.response(exchange) for exchange in exchanges[5:10]]
    place = f"{name}#{sum(map(len, members[:2]))}"
    members[2] = warc.damaged(members[2])
    (folder / name).write_bytes(b"".join(members))
    also = (Reason.BROKEN_FILE,)
    cases.append(Case("damaged_record", "extract_links", Reason.BROKEN_RECORD, place, also=also))
    return cases
