"""What was planted in the pocket web, and what a correct pipeline does with it."""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

KEEP = "keep"


@dataclass(frozen=True)
class TileTruth:
    """One distinct tile: its class, its split, the file and the URLs its own bytes lie under.

    ``split`` is ``web`` (the crawl can reach it), ``refused`` (only behind a refusal, so its bytes must never enter
    the store), ``heldout/train``, ``heldout/test`` or ``queries``.
    """

    image_id: str
    label: str
    split: str
    photograph_box: tuple[int, int, int, int]
    path: str
    urls: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """One planted case.

    Attributes:
        kind: what was done, e.g. ``edited_mirror``.
        stage: the stage that decides on it.
        expected: a ``curation.schema.Reason``, or ``keep``: the unit is still there after ``stage``.
        url: the image URL; for a broken page file or record ``<file>#<offset>``, for an image inside a page
            ``<file>#<offset>/data-<number>``, as the ledger names them.
        page: a page that shows it.
        image_id: of its bytes, where it has any.
        of: URL of the original, or the path of the held-out file, relative to the folder.
        of_image_id: of the original.
        also: other reasons that are right, e.g. when an earlier stage may catch it.
        either: the stage chooses whether this or the original is the one that goes.
        face_boxes: left, upper, right, lower of each face, in pixels of the image.
    """

    kind: str
    stage: str
    expected: str
    url: str
    page: str | None = None
    image_id: str | None = None
    of: str | None = None
    of_image_id: str | None = None
    also: tuple[str, ...] = ()
    either: bool = False
    face_boxes: tuple[tuple[int, int, int, int], ...] = ()


@dataclass(frozen=True)
class Truth:
    """All that is known about one pocket web; ``hosts`` groups the hosts by what they are there for."""

    version: int
    seed: int
    hosts: dict[str, list[str]]
    classes: list[str]
    concepts: list[str]
    tiles: list[TileTruth]
    cases: list[Case]
    smaller_candidates: list[str]  # srcset URLs that a reader of the largest candidate never asks for
    hostile_text: list[str]  # markup hidden in alt texts: a report must show it escaped
    totals: dict[str, dict[str, int]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Truth":
        """Read ``truth.json``."""
        tree = json.loads(path.read_text(encoding="utf-8"))
        tree["tiles"] = [TileTruth(**_tuples(tile)) for tile in tree["tiles"]]
        tree["cases"] = [Case(**_tuples(case)) for case in tree["cases"]]
        return cls(**tree)

    def write(self, path: Path) -> None:
        """Write ``truth.json``: the same truth gives the same bytes."""
        text = json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")


def totals(tiles: list[TileTruth], cases: list[Case], **others: int) -> dict[str, dict[str, int]]:
    """Counts by split, by kind of case and by expectation; ``others`` is kept as it is under ``web``."""
    return {
        "tiles": dict(sorted(Counter(tile.split for tile in tiles).items())),
        "cases": dict(sorted(Counter(case.kind for case in cases).items())),
        "expected": dict(sorted(Counter(f"{case.stage}: {case.expected}" for case in cases).items())),
        "web": dict(sorted(others.items())),
    }


def _tuples(record: dict[str, Any]) -> dict[str, Any]:
    return {key: _tuple(value) for key, value in record.items()}


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value
