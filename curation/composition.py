"""What a release is made of, set by set, in the layout of the DINOv2 paper's table (appendix A), beside its counts."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.compute as pc

from conf import entry_point
from curation.release.printable import printable
from curation.schema import KEEP, POOL
from curation.store import Run, Store

_METHODS = {"as_is": "as is", "all": "whole pool"}
_HEADER = ("task", "dataset / split", "images", "retrieval", "retrieved", "final", "unique", "published", "difference")
_NUMBERS = ("images", "retrieved", "final", "unique", "published", "difference")


@dataclass(frozen=True)
class Row:
    """One set.

    Attributes:
        name: of the set in the recipe.
        task: what it is there for, where the recipe tells.
        dataset: with its split, where the recipe tells; else the set's name.
        images: of the set.
        retrieval: sample, cluster, as is.
        retrieved: k a query, or the take of every cluster drawn from, before the set's cap; None: as it is.
        final: the same within the cap. These are nominal: an image counts as often as it comes up, and a cluster for as
            many as it was asked for, as in the published table.
        unique: images of the release that stand under the set's name; their sum is the release.
        published: its ``final``, where the recipe tells.
    """

    name: str
    task: str
    dataset: str
    images: int
    retrieval: str
    retrieved: int | None
    final: int
    unique: int
    published: int | None

    @property
    def difference(self) -> int | None:
        """What is taken more than was published, nominally."""
        return None if self.published is None else self.final - self.published


def nominal(units: int, each: int | None, total: int | None) -> tuple[int | None, int]:
    """How many images a set asks for: before its cap, None for one that is taken as it is; and within it.

    Args:
        units: queries, or clusters drawn from, or images of a set that is taken as it is.
        each: images a unit.
        total: the set's cap.
    """
    retrieved = None if each is None else units * each
    asked = units if retrieved is None else retrieved
    return retrieved, asked if total is None else min(asked, total)


def composition(
    recipe: Mapping[str, Any], counts: Mapping[str, Mapping[str, Any]], unique: Mapping[str, int]
) -> list[Row]:
    """A row a set, in the order of the recipe.

    Args:
        recipe: ``recipe.retrieve``, as a run or a manifest has it on record.
        counts: ``sets`` of the run's metrics: images, retrieved, nominal of every set.
        unique: images of the release under each set's name.
    """
    sets = recipe.get("sets") or {POOL: {"method": "all"}}
    whole = {"images": unique.get(POOL, 0), "retrieved": None, "nominal": unique.get(POOL, 0)}
    rows = []
    for name, queries in sets.items():
        published, mine = queries.get("published") or {}, counts.get(name, whole)
        parts = [published.get("dataset"), published.get("split")]
        rows.append(
            Row(
                name=name,
                task=published.get("task", ""),
                dataset=" / ".join(filter(None, parts)) or name,
                images=mine["images"],
                retrieval=_METHODS.get(queries["method"], queries["method"]),
                retrieved=mine["retrieved"],
                final=mine["nominal"],
                unique=unique.get(name, 0),
                published=published.get("final"),
            )
        )
    return rows


def of_run(run: Run, unique: Mapping[str, int]) -> list[Row]:
    """The rows of a finished run of ``retrieve``; none of a run of before it kept them on record."""
    return composition(run.recipe, run.metrics["sets"], unique) if "sets" in run.metrics else []


def of_store(store: Store) -> list[Row]:
    """The rows of a store; ``unique`` counts what ``publish`` has kept, or would be given.

    Raises:
        ValueError: ``retrieve`` has not run.
    """
    runs = store.runs()
    if "retrieve" not in runs or "sets" not in runs["retrieve"].metrics:
        what = "an earlier version of retrieve has run" if "retrieve" in runs else "retrieve has not run"
        raise ValueError(f"{store.uri}: {what} there; run python -m spark_jobs.run with its recipe")
    selection = store.table("selection", columns=["image_id", "collection"])
    if "publish" in runs:
        ledger = store.decisions("publish").filter(pc.field("decision") == KEEP)
        selection = selection.filter(pc.is_in(selection["image_id"], ledger["image_id"].combine_chunks()))
    counted = selection["collection"].value_counts().to_pylist()
    return of_run(runs["retrieve"], {row["values"]: row["counts"] for row in counted})


def totals(rows: Sequence[Row]) -> dict[str, int | None]:
    """Sums of the columns that add up; ``published`` and ``difference`` of the sets that have one, None without any."""
    known = [row for row in rows if row.published is not None]
    return {
        "final": sum(row.final for row in rows),
        "unique": sum(row.unique for row in rows),
        "published": sum(row.published or 0 for row in known) if known else None,
        "difference": sum(row.difference or 0 for row in known) if known else None,
    }


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """Lines of the table as text, the header first and the totals last; columns that nobody fills are left out."""
    table = [list(_HEADER)]
    for row in rows:
        numbers = {key: _number(getattr(row, key)) for key in _NUMBERS}
        table.append([row.task, row.dataset, numbers["images"], row.retrieval, *list(numbers.values())[1:]])
    sums = totals(rows)
    table.append(["", "in all", "", "", "", *(_number(sums[key]) for key in _NUMBERS[2:])])
    used = [any(line[i] for line in table[1:]) for i in range(len(_HEADER))]
    return [[cell for cell, is_used in zip(line, used, strict=True) if is_used] for line in table]


def text(rows: Sequence[Row]) -> str:
    """The table for a terminal."""
    table = [[printable(cell) for cell in line] for line in cells(rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    numeric = [name in _NUMBERS for name in table[0]]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in table
    )


def markdown(rows: Sequence[Row]) -> str:
    """The table for a page."""
    header, *lines = [[_plain(cell) for cell in line] for line in cells(rows)]
    rule = ["--:" if name in _NUMBERS else "---" for name in header]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *lines))


def as_json(rows: Sequence[Row]) -> str:
    """The rows and their totals."""
    listed = [asdict(row) | {"difference": row.difference} for row in rows]
    return json.dumps({"sets": listed, "totals": totals(rows)}, indent=1)


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _plain(value: str) -> str:
    return "".join(c for c in value if c.isprintable()).replace("|", "\\|")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m curation.composition",
        description=__doc__,
        epilog="example: python -m curation.composition runs/lvd142m/store --markdown",
    )
    parser.add_argument("store", metavar="STORE", help="folder or URI of a store in which retrieve has run")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="print a Markdown table")
    form.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    rows = of_store(Store(options.store))
    print(markdown(rows) if options.markdown else as_json(rows) if options.json else text(rows))
    return 0


if __name__ == "__main__":
    entry_point(main)
