"""Builds the pocket web: plans it, writes it beside its place, and moves it there in one step."""

import json
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from curation.images.ids import image_id
from curation.pocket_web import plan, plants, warc
from curation.pocket_web.pages import HOSTILE_TEXT, Page, render
from curation.pocket_web.photos import PHOTOGRAPHS, Tile, detail, split, tiles_and_chains
from curation.pocket_web.site import HOSTS, Site
from curation.pocket_web.truth import Case, TileTruth, Truth, totals
from curation.schema import Reason

VERSION = 2  # of the construction; raise it with every change of the bytes
MARKER = "pocket_web.json"
CHAIN_LABELS = ("china", "coffee", "ihc", "motorcycle")
DRIFT_LABELS = ("astronaut", "chelsea", "gravel", "hubble")  # where a twentieth of the frame is a copy, and two are not
NUM_WARC_FILES = 4
RICH_DETAIL = 5.0  # an edit of a plainer tile resembles its neighbours as much as its original
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
    sources = plan.web_tiles(site, web[6:-5])
    rich = [pair for pair in sources if detail(pair[0].pixels) >= RICH_DETAIL]
    plain = [pair for pair in sources if detail(pair[0].pixels) < RICH_DETAIL]
    plan.exact_copies(site, plain[:8] + rich[:8])
    plan.near_exact_copies(site, plain[8:12] + rich[8:20])
    plan.edited_copies(site, rich[20:68])
    plan.chains(site, chains)
    plan.drifts(site, tiles_and_chains(seed, DRIFT_LABELS)[1])
    leaks = [pair for pair in kept_back["heldout/test"] if detail(pair[0].pixels) >= RICH_DETAIL]
    plan.evaluation_copies(site, leaks[::2][:22])
    plan.one_face(site)
    plan.group_portrait(site)
    plan.unusual_encodings(site, web[-5:])
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
    """Pages that name their own address as plain files, the others as WARC; the cases are those of the files."""
    (folder / "html").mkdir()
    (folder / "warc").mkdir()
    in_warc = [page for page in site.pages if not page.canonical]
    for page in site.pages:
        if page.canonical:
            (folder / "html" / page.url.removeprefix("http://").replace("/", "_")).write_bytes(render(page))
    cases = []
    for number in range(NUM_WARC_FILES):
        name = f"crawl-{number:05}.warc.gz"
        data = warc.warcinfo(name)
        for page in in_warc[number::NUM_WARC_FILES]:
            exchange = _exchange(page)
            data += warc.request(exchange)
            cases += _data_uris(page, f"{name}#{len(data)}")
            data += warc.response(exchange)
        if number == 0:
            data += b"".join(warc.response(exchange) for exchange in _no_pages(site))
        (folder / "warc" / name).write_bytes(data)
    ordinary = [page for page in in_warc if urlsplit(page.url).netloc in HOSTS["ordinary"]]
    return cases + _write_broken(folder / "warc", [_exchange(page) for page in ordinary[-12:]])


def _data_uris(page: Page, place: str) -> list[Case]:
    """Images inside the page have no address: the ledger names them by their place."""
    inline = [shown for shown in page.pictures if shown.url.startswith("data:")]
    return [
        Case("data_uri", "extract_links", Reason.DATA_URI, f"{place}/data-{k}", page=page.url)
        for k in range(len(inline))
    ]


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
    """Files cut short or damaged, made of pages that other files hold too, so that no picture is lost with them."""
    members = [warc.response(exchange) for exchange in exchanges]
    cut = warc.cut_in_body(exchanges[3])
    broken = {
        "cut_in_body": (members[:3], cut, []),
        "cut_in_header": (members[4:6], members[6][: len(members[6]) // 3], []),
        "damaged_record": (members[7:9], warc.damaged(members[9]), members[10:]),
    }
    cases = []
    for kind, (before, bad, after) in broken.items():
        name = f"crawl-{kind.replace('_', '-')}.warc.gz"
        (folder / name).write_bytes(b"".join([*before, bad, *after]))
        place = f"{name}#{sum(map(len, before))}"
        cases.append(Case(kind, "extract_links", Reason.BROKEN_RECORD, place, also=(Reason.BROKEN_FILE,)))
    name = "crawl-noise.warc.gz"
    (folder / name).write_bytes(plants.noise(3000, seed=0))
    cases.append(Case("noise_for_pages", "extract_links", Reason.BROKEN_FILE, f"{name}#0"))
    return cases
