"""What deduplication measured of itself: component sizes, what its other rules would drop, how much the join found."""

from dataclasses import dataclass

from markupsafe import Markup

from curation.neighbours.certificate import Certificate
from curation.report import charts
from curation.report.collect import Collected
from curation.report.words import many

SHOWN_SIZES = 20
MODES = {
    "witness": "images with a direct edge to one that stays",
    "paper": "all but one of each component, as in the paper",
}
SCOPES = {
    "direct": "images with a direct edge to one of the set",
    "component": "their whole components, as in the paper",
}


@dataclass(frozen=True)
class Rule:
    """A rule and what it drops; one of each kind was chosen."""

    about: str
    rule: str
    dropped: int
    chosen: bool


@dataclass(frozen=True)
class Copies:
    """For the page.

    Attributes:
        certificate: a sentence.
        rules: by kind.
        sizes: (images of a component, components, bar), the smallest first.
        more: sizes that are not shown.
    """

    certificate: str
    rules: list[Rule]
    sizes: list[tuple[int, int, Markup]]
    more: int


def measured(found: Collected) -> Copies | None:
    """None where the stage has not run, or did not measure."""
    run = found.runs.get("dedup")
    if run is None or "certificate" not in run.metrics:
        return None
    metrics, recipe = run.metrics, run.recipe
    counts = metrics["near_duplicates"]
    rules = [Rule("near-duplicates", text, counts[mode], mode == recipe["mode"]) for mode, text in MODES.items()]
    for name, by_scope in metrics["evaluation_copies"].items():
        scope = recipe["references"].get(name, {}).get("scope") or recipe["reference_scope"]
        rules += [Rule(f"copies of {name}", text, by_scope[each], each == scope) for each, text in SCOPES.items()]
    sizes = sorted((int(size), count) for size, count in metrics["component_sizes"].items())
    scale = max((size * count for size, count in sizes), default=0)
    rows = [
        (
            size,
            count,
            charts.bar(
                [("images", size * count, charts.KEPT)],
                scale,
                f"{many(count, 'component')} of {many(size, 'image')}: {size * count:,} images",
            ),
        )
        for size, count in sizes
    ]
    shown = rows if len(rows) <= SHOWN_SIZES else rows[: SHOWN_SIZES // 2] + rows[-SHOWN_SIZES // 2 :]
    return Copies(str(Certificate(**metrics["certificate"])), rules, shown, len(rows) - len(shown))
