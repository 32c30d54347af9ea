"""Why an image or a URL is in the data set or is not: the ledger replayed, ``python -m curation.explain``."""

import argparse
import json
import re
from dataclasses import asdict, replace

import pyarrow as pa
import pyarrow.compute as pc

from conf import entry_point
from curation.explanation import Explanation, Row, render
from curation.links.urls import normalise
from curation.release.printable import printable
from curation.report.words import many, measurement, of_its_group
from curation.schema import DROP, STAGES, Reason
from curation.store import Store, locate
from curation.takedown.tombstones import Tombstones, is_id, tombstones

_OF_THE_IMAGE = STAGES[STAGES.index("screen") :]  # before it, a stage decides on a URL or a file
_OF_THE_DECISION = ("reason", "detail", "evidence", "score", "threshold")  # columns of images that the ledger shows
_PREFIX = re.compile(r"[0-9a-f]{8,32}")
_ID = re.compile(r"[0-9a-f]{32}")
_COPIES = (Reason.PCA_HASH_DUPLICATE, Reason.NEAR_DUPLICATE, Reason.EVALUATION_COPY)
_NAMES_AN_IMAGE = ("evidence", "component", "representative", "witness", "query_id")


def explain(store: Store, subject: str) -> list[Explanation]:
    """Everything known of an id, an id's prefix of 8 digits or more, a URL, or the path of an imported file.

    Returns:
        One explanation; more where the same URL gave several images.

    Raises:
        ValueError: the store does not know it, or the prefix is not unique.
    """
    stones = tombstones(store)
    if stones is not None and (gone := _taken_down(store, stones, subject)) is not None:
        return [gone]
    if _PREFIX.fullmatch(subject):
        return [_image(store, _complete(store, subject), None)]
    for url in [*_spellings(subject), *_in_sources(store, subject)]:
        met = (pc.field("url") == url) | (pc.field("path") == url)
        if ids := sorted(set(store.table("sightings", ["image_id"], met)["image_id"].to_pylist())):
            return [_image(store, image_id, url) for image_id in ids]
        found = _url(store, url)
        if found.decisions or found.sightings:
            return [found]
    raise ValueError(
        f"{store.uri}: nothing is known of {printable(subject)!r}; give an image id (8 hex digits or more), "
        "a URL as it stands in a page, or an imported file by its path or as <source>:<path>"
    )


def _complete(store: Store, prefix: str) -> str:
    starts = pc.starts_with(pc.field("image_id"), prefix)
    tables = ("images", "decisions", "collections")
    ids = {i for name in tables for i in store.table(name, ["image_id"], starts)["image_id"].to_pylist()}
    if not ids:
        raise ValueError(
            f"{store.uri}: no image id begins with {prefix}; is it of this store? Of one that was taken down give all "
            "32 digits"
        )
    if len(ids) > 1:
        raise ValueError(
            f"{len(ids)} image ids begin with {prefix}, {', '.join(sorted(ids)[:3])} ...; give more digits"
        )
    return str(ids.pop())


def _spellings(subject: str) -> list[str]:
    """The subject as given, then as a link would be normalised."""
    try:
        return list(dict.fromkeys([subject, normalise(subject)]))
    except ValueError:
        return [subject]


def _in_sources(store: Store, subject: str) -> list[str]:
    """A path of the user's as the tables name it: <source>:<path below the source's folder>."""
    if "://" in subject:
        return []
    path, folders = locate(subject)[1], {name: locate(root)[1] for name, root in store.sources().items()}
    return [f"{name}:{path[len(root) + 1 :]}" for name, root in folders.items() if path.startswith(f"{root}/")]


def _image(store: Store, image_id: str, url: str | None) -> Explanation:
    mine = pc.field("image_id") == image_id
    sightings = store.table("sightings", filter=mine).drop_columns("image_id").to_pylist()
    names = sorted({name for row in sightings for name in (row["url"], row["path"]) if name})
    met = mine | pc.field("url").isin(pa.array(names, pa.string()))  # there may be none, and then no type either
    decisions = _decisions(store, met)
    # a URL that was fetched twice may have given another image: its later decisions are not about this one
    decisions = [row for row in decisions if row["image_id"] in (None, image_id)]
    image = _rows(store, "own_images", mine) + _rows(store, "images", mine) + _rows(store, "screened", mine)
    component = _rows(store, "components", mine)
    retrievals = sorted(_rows(store, "retrievals", mine), key=_by_rank)
    detections = _rows(store, "detections", mine) + _rows(store, "own_detections", mine)
    known_as = _known_as(store, [*decisions, *component, *retrievals])
    of_the_image = [row for row in decisions if row["stage"] in _OF_THE_IMAGE]
    return Explanation(
        image_id=image_id,
        url=url,
        outcome=_outcome(of_the_image, "image", known_as) + _met(sightings),
        image={key: value for row in image for key, value in row.items() if key not in _OF_THE_DECISION},
        collections=_rows(store, "collections", mine),
        sightings=_with_places(store, sightings),
        detectors=_detectors(store, decisions, detections),
        detections=detections,
        decisions=decisions,
        component=component[0] if component else None,
        clusters=_rows(store, "clusters", mine),
        retrievals=retrievals,
        selection=_rows(store, "selection", mine),
        takedowns=[],
        known_as=known_as,
    )


def _met(sightings: list[Row]) -> str:
    names = {row["url"] or row["path"] for row in sightings}
    return f"; the same bytes were met under {len(names)} names" if len(names) > 1 else ""


def _url(store: Store, url: str) -> Explanation:
    mine = pc.field("url") == url
    links = store.table("links", ["url", "page_url", "domain", "rights"], mine).to_pylist()
    pages = {row["page_url"]: row | {"path": None} for row in links}
    decisions = _decisions(store, mine)
    return Explanation(
        image_id=None,
        url=url,
        outcome=_outcome(decisions, "URL", {}),
        image={},
        collections=[],
        sightings=_with_places(store, list(pages.values())),
        detectors={},
        detections=[],
        decisions=decisions,
        component=None,
        clusters=[],
        retrievals=[],
        selection=[],
        takedowns=[],
        known_as={},
    )


def _taken_down(store: Store, stones: Tombstones, subject: str) -> Explanation | None:
    """What is known of an id, URL or path that was taken down: by which request, and the decision that says so."""
    spellings = _spellings(subject)
    asked = [stones.of_image(subject) if is_id(subject) else None, *map(stones.of_url, spellings)]
    tokens = pc.field("url").isin(pa.array([stones.token(text) for text in spellings], pa.string()))
    decisions = _decisions(store, tokens)
    request = next((request for request in asked if request is not None), None)
    if request is None and not decisions:
        return None
    mine = pc.field("request") == request
    rows = store.table("takedowns", ["kind", "request", "requested_at"], mine).to_pylist()
    known = [dict(row) for row in sorted({tuple(sorted(row.items())) for row in rows})]
    image_id = subject if is_id(subject) else None
    blank = _url(store, subject)
    return replace(
        blank,
        image_id=image_id,
        url=None if image_id else subject,
        outcome="taken down, and refused where it is met again",
        decisions=[*blank.decisions, *decisions],
        takedowns=known,
    )


def _detectors(store: Store, decisions: list[Row], detections: list[Row]) -> Row:
    """The detectors that looked at an image: none at one that was refused before they did."""
    screen = store.runs().get("screen")
    refused = any((row["stage"], row["decision"]) == ("screen", DROP) for row in decisions)
    return {} if screen is None or (refused and not detections) else screen.metrics.get("detectors", {})


def _known_as(store: Store, rows: list[Row]) -> dict[str, str]:
    """What the images that the rows name were met as: the first URL or path by id."""
    values = (row.get(key) for row in rows for key in _NAMES_AN_IMAGE)
    ids = pc.field("image_id").isin(pa.array({v for v in values if v and _ID.fullmatch(v)}, pa.string()))
    met = store.table("sightings", ["image_id", "url", "path"], ids).to_pylist()
    held = store.table("collections", filter=ids).to_pylist()
    names = [(row["image_id"], row["url"] or row["path"]) for row in met]
    names += [(row["image_id"], f"{row['collection']}:{row['path']}") for row in held]
    return dict(sorted(((i, name) for i, name in names if name), reverse=True))  # the first by name is the last to stay


def _decisions(store: Store, condition: pc.Expression) -> list[Row]:
    current = sorted(run.run_id for run in store.runs().values())
    rows = store.table(
        "decisions", filter=condition & pc.field("run_id").isin(pa.array(current, pa.string()))
    ).to_pylist()
    order = {stage: number for number, stage in enumerate(STAGES)}
    return sorted(
        rows, key=lambda r: (order.get(r["stage"], len(order)), r["url"] or "", r["decision"], r["reason"] or "")
    )


def _outcome(decisions: list[Row], what: str, known_as: dict[str, str]) -> str:
    if not decisions:
        return f"no current run has decided on this {what}"
    drops = [row for row in decisions if row["decision"] == DROP]
    if drops:
        last = drops[-1]
        return f"dropped by {last['stage']}: {last['reason']}{_why(last, known_as)}"
    last = decisions[-1]
    if last["stage"] != "publish":
        return f"kept by every stage so far; the last was {last['stage']}"
    regions = json.loads(last["evidence"])["blurred"] if last["evidence"] else []
    return f"released with {many(len(regions), 'region')} blurred" if regions else "released as it was found"


def _why(drop: Row, known_as: dict[str, str]) -> str:
    """Of which image it is a copy, and by what measure."""
    evidence = known_as.get(drop["evidence"]) or drop["evidence"]
    if drop["reason"] == Reason.EVALUATION_COPY and drop["score"] is None:
        return f"; {of_its_group(evidence)}"
    whose = f" of {evidence}" if drop["reason"] in _COPIES else ""
    measure = measurement(drop["reason"], drop["score"], drop["threshold"])
    return f"{whose}; {measure}" if measure else whose


def _with_places(store: Store, sightings: list[Row]) -> list[Row]:
    """Add to each sighting the records of the crawl it was found in."""
    urls = sorted({row["url"] for row in sightings if row["url"]})
    columns = ["url", "page_url", "crawl", "file", "offset", "crawled_at"]
    places = store.table("links", columns, pc.field("url").isin(urls)).to_pylist() if urls else []
    found: dict[tuple[str, str], list[Row]] = {}
    for place in sorted(places, key=lambda p: (p["file"] or "", p["offset"] or 0)):
        entry = {key: place[key] for key in columns[2:]}
        known = found.setdefault((place["url"], place["page_url"]), [])
        if entry not in known:
            known.append(entry)
    rows = [row | {"found_in": found.get((row["url"], row["page_url"]), [])} for row in sightings]
    return sorted(rows, key=lambda row: (row["url"] or row["path"] or "", row["page_url"] or ""))


def _rows(store: Store, table: str, condition: pc.Expression) -> list[Row]:
    rows = store.table(table, filter=condition).to_pylist()
    plain = [{key: value for key, value in row.items() if key != "image_id"} for row in rows]
    return sorted(plain, key=lambda row: json.dumps(row, sort_keys=True))


def _by_rank(row: Row) -> tuple[int, str]:
    return (row["rank"] if row["rank"] is not None else 2**31, row["collection"] or "")


def main() -> int:
    """Explain one id or URL; an unknown one raises (exit code 2)."""
    parser = argparse.ArgumentParser(
        prog="python -m curation.explain",
        description="Why an image is in the data set or is not: its sightings and every decision on it.",
        epilog="example: python -m curation.explain runs/demo/store http://garden.test/photo.jpg",
    )
    parser.add_argument("store", metavar="STORE", help="folder or URI of the store")
    parser.add_argument(
        "subject", metavar="ID_OR_URL_OR_PATH", help="image id, its first 8 digits or more, URL, path, or source:path"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list in place of text")
    options = parser.parse_args()

    store = Store(options.store)
    if not store.runs():
        raise ValueError(f"{store.uri}: no stage has run there; name the folder that holds tables/")
    found = explain(store, options.subject)
    if options.json:
        print(json.dumps([asdict(one) for one in found], indent=1))
    else:
        print("\n\n".join(map(render, found)))
    return 0


if __name__ == "__main__":
    entry_point(main)
