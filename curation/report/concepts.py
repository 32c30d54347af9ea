"""How images lie over concepts before and after the selection, in numbers, a picture, and examples."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from markupsafe import Markup

from curation.composition import cells, of_run
from curation.report.charts import concepts as chart
from curation.report.collect import Collected
from curation.report.galleries import Group, Thumbnails
from curation.report.words import many
from curation.schema import POOL
from curation.selection.concepts import sizes
from curation.store import Store

_ENDS = 3  # clusters shown, of the largest and of the smallest
_PICTURES = 8
_SETS = 8  # whose clusters are marked
_MEASURES = (
    ("images", "images"),
    ("clusters", "clusters that hold any"),
    ("effective_number", "as even as so many clusters of one size"),
    ("gini", "Gini coefficient (0: all of one size)"),
)


@dataclass(frozen=True)
class Concepts:
    """What the page shows.

    Attributes:
        svg: the picture.
        measures: (what, of the pool, of the selection).
        examples: pictures of the largest and of the smallest clusters.
        hidden: query sets whose clusters are not marked for want of room.
    """

    svg: Markup
    measures: list[tuple[str, float, float]]
    examples: list[Group]
    hidden: int


def measured(store: Store, found: Collected, thumbnails: Thumbnails) -> Concepts | None:
    """None where ``retrieve`` has not run, has left no record of it, or there was no image in its pool."""
    run = found.runs.get("retrieve")
    balance = run.metrics.get("balance") if run else None
    if run is None or not balance or not balance["pool"]["images"]:
        return None
    table = store.table("clusters", columns=["collection", "image_id", "cluster"])
    pool = table.filter(pc.equal(table["collection"], POOL)).sort_by("image_id")
    taken = {row["image_id"]: row["cluster"] for row in found.selection}
    of_pool = pool["cluster"].to_numpy()
    num = int(max([of_pool.max(), *(c for c in taken.values() if c is not None)])) + 1
    before = sizes(of_pool, num)
    after = sizes(np.array([c for c in taken.values() if c is not None], np.int64), num)
    order = np.lexsort((np.arange(num), -before))
    order = order[before[order] + after[order] > 0]
    marks = {name: _queries(table, run.recipe, name, num)[order] for name in list(run.recipe["sets"])[:_SETS]}
    sides = [(words, balance["pool"][key], balance["selection"][key]) for key, words in _MEASURES]
    label = "; ".join(f"{words}: {a:g} in the pool, {b:g} selected" for words, a, b in sides)
    ids = pool["image_id"].to_pylist()
    filled = order[before[order] > 0]
    shown = [*filled[:_ENDS], *filled[max(_ENDS, len(filled) - _ENDS) :]]
    examples = [
        _example(
            f"{'Large' if i < _ENDS else 'Small'} cluster {c}", np.flatnonzero(of_pool == c), ids, taken, thumbnails
        )
        for i, c in enumerate(shown)
    ]
    hidden = max(0, len(run.recipe["sets"]) - _SETS)
    return Concepts(chart(before[order], after[order], marks, label), sides, examples, hidden)


def made_of(found: Collected) -> list[list[str]]:
    """The composition of the release, or of the selection where there is none yet, as lines of a table."""
    if (run := found.runs.get("retrieve")) is None:
        return []
    names = [row["source"] for row in found.released] or [row["collection"] for row in found.selection]
    rows = of_run(run, {name: names.count(name) for name in set(names)})
    return cells(rows) if rows else []


def _queries(table: Any, recipe: dict[str, Any], name: str, num: int) -> np.ndarray:
    collection = recipe["sets"][name].get("collection") or name
    clusters = table.filter(pc.equal(table["collection"], collection))["cluster"].to_numpy()
    return sizes(clusters[clusters < num], num)


def _example(title: str, rows: np.ndarray, ids: list[str], taken: dict[str, Any], thumbnails: Thumbnails) -> Group:
    num_taken = sum(ids[row] in taken for row in rows)
    pictures = [
        thumbnails.of(ids[row], "selected" if ids[row] in taken else "not selected") for row in rows[:_PICTURES]
    ]
    return Group(f"{title}: {many(len(rows), 'image')}, {num_taken:,} selected", len(rows), pictures)
