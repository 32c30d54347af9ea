"""All that is known of one image or URL, and the same as lines for a terminal."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from curation.release.printable import printable

_SHOWN = 5
_SHA256 = re.compile(r"[0-9a-f]{64}")

Row = dict[str, Any]


@dataclass(frozen=True)
class Explanation:
    """All a store knows of one image, or of one URL that never became an image.

    Attributes:
        image_id: None for a URL without an image.
        url: the URL that was asked about; None where an id was.
        outcome: one sentence.
        image: where the bytes lie, format and size in pixels; empty if unknown.
        collections: evaluation and query sets that hold the image.
        sightings: url, page_url, path, domain, rights, and ``found_in``: crawl, file, offset, crawled_at.
        detectors: name in the recipe to what is on record of each detector that looked at the image.
        detections: what they found: detector, label, score, and x, y, width, height of its box.
        decisions: ledger rows of the current runs, in stage order.
        component: near-duplicate component, its representative, the witness; None without near duplicates.
        clusters: cluster and similarity, by collection.
        retrievals: candidates that brought the image up, best rank first.
        selection: what selected it for the release.
        takedowns: requests that name it.
        known_as: other images that are named above, by id: the URL or path each was met at.
    """

    image_id: str | None
    url: str | None
    outcome: str
    image: Row
    collections: list[Row]
    sightings: list[Row]
    detectors: Row
    detections: list[Row]
    decisions: list[Row]
    component: Row | None
    clusters: list[Row]
    retrievals: list[Row]
    selection: list[Row]
    takedowns: list[Row]
    known_as: dict[str, str]


def render(found: Explanation) -> str:
    """The explanation as lines for a terminal; whatever came from the web is escaped."""
    lines = [f"image {found.image_id}" if found.image_id else f"url {found.url}", f"  {found.outcome}"]
    if found.image:
        first = ("format", "width", "height", "shard", "offset_bytes", "size_bytes")
        lines.append("  " + _fields(found.image, *dict.fromkeys([*first, *found.image])))
    lines += [f"  in the set {row['collection']} as {row['path']}" for row in found.collections]
    lines.append("sightings")
    for row in found.sightings:
        lines.append(f"  {row['url'] or row['path']}")
        if row["url"] and row["path"]:
            lines.append(f"    in {row['path']}")
        if row["page_url"]:
            lines.append(f"    on {row['page_url']}")
        if row.get("caption"):
            lines.append(f"    caption {row['caption']}")
        lines += [
            f"    found in {_fields(place, 'crawl', 'file', 'offset', 'crawled_at')}" for place in row["found_in"]
        ]
        lines.append(f"    rights {', '.join(row['rights']) if row['rights'] else 'unknown: no signal was seen'}")
    if found.image:
        lines += ["people and unsafe content", *("  " + line for line in _looked_at(found))]
    lines.append("decisions")
    for row in found.decisions:
        what = f"{row['decision']} {row['reason'] or ''}".rstrip()
        subject = ("url",) if row["url"] and len(found.sightings) > 1 else ()
        known = _fields(_named(row, found), "score", "threshold", "evidence", "model", *subject, "run_id")
        lines.append(f"  {row['stage']:<14}{what:<26}{known}")
    if found.component:
        lines += ["near duplicates", "  " + _fields(_named(found.component, found), *found.component)]
    for title, rows in (
        ("cluster", found.clusters),
        ("retrieval", found.retrievals),
        ("selection", found.selection),
        ("takedown", found.takedowns),
    ):
        if rows:
            lines += [title, *("  " + _fields(_named(row, found), *row) for row in rows[:_SHOWN])]
            lines += [f"  ... and {len(rows) - _SHOWN} more; --json gives all"] if len(rows) > _SHOWN else []
    return "\n".join(map(printable, lines))


def _looked_at(found: Explanation) -> Iterator[str]:
    """Which detectors looked at the image, and what each found."""
    if not found.detectors:
        yield "not evaluated: no detector looked"
    for name, detector in found.detectors.items():
        mine = [row for row in found.detections if row["detector"] == name]
        known = _fields(detector, "name", "version", "licence", "digest")
        yield f"{name} looked for {', '.join(detector['labels'])}, found {len(mine) or 'nothing'}: {known}"
        for row in mine:
            box = "in the whole picture" if row["x"] is None else "at {x},{y}, {width} x {height} pixels".format(**row)
            yield f"  {row['label']} {row['score']:.6g} {box}"


def _named(row: Row, found: Explanation) -> Row:
    """The row with the name of each other image before the first digits of its id, which are enough to ask for it."""
    names = found.known_as
    return {key: f"{names[value]} ({value[:12]})" if value in names else value for key, value in row.items()}


def _fields(row: Row, *names: str) -> str:
    known = ((name, row[name]) for name in names if row.get(name) is not None)
    return "  ".join(f"{name} {_shown(value)}" for name, value in known)


def _shown(value: Any) -> str:
    """Numbers short, and the first digits of a SHA-256, which are enough to compare by eye; ``--json`` has all."""
    if isinstance(value, str) and _SHA256.fullmatch(value):
        return value[:12]
    return f"{value:.6g}" if isinstance(value, float) else str(value)
