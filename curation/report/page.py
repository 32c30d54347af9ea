"""The page: plain data in, one HTML string out."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from curation.pocket_web.truth import KEEP, Truth
from curation.report import charts, companions, concepts, copies, galleries, planted, safety
from curation.report.collect import IMAGE, UNITS, Collected, Drop, Pictures, collect
from curation.report.words import RULES, STAGE_TITLES, many, number, plain
from curation.schema import STAGES
from curation.store import Run, Store

URLS_PER_REASON = 8
CLASSICAL = "classical"  # the kind of an embedder that is computed by a formula


@dataclass(frozen=True)
class Inputs:
    """What a report is made from: folders as the caller named them, and the planted truth."""

    store: str
    release: str | None = None
    training: str | None = None
    evaluation: str | None = None
    truth: str | None = None


@dataclass(frozen=True)
class Bar:
    """A stage of the funnel."""

    title: str
    unit: str
    new_unit: bool
    run: Run
    svg: Markup
    reasons: list[tuple[str, int, str]]  # reason, count, colour
    adds_up: bool


def build(inputs: Inputs) -> str:
    """The whole report.

    Raises:
        ValueError: the store holds no tables, or a named file is damaged.
    """
    store = Store(inputs.store)
    found = collect(store, inputs.release)
    thumbnails = galleries.Thumbnails(found, Pictures(store, inputs.release))
    root = found.manifest.merkle_root if found.manifest else None
    curves, no_training = companions.training(inputs.training, root)
    results, no_evaluation = companions.evaluation(inputs.evaluation, inputs.training, root)
    truth = Truth.read(Path(inputs.truth)) if inputs.truth else None
    comparison = planted.compare(truth.cases, found.drops, found.runs) if truth else None
    return _environment().get_template("page.html.j2").render(
        inputs=inputs,
        found=found,
        funnel=funnel(found),
        comparison=comparison,
        kinds=_kinds(comparison) if comparison else [],
        planted_exhibits=_planted_exhibits(comparison, thumbnails) if comparison else [],
        galleries=galleries.dropped(found, thumbnails),
        released=galleries.released(found, thumbnails),
        num_groups=galleries.num_groups(found),
        components=galleries.components(found, thumbnails),
        copies=copies.measured(found),
        concepts=concepts.measured(store, found, thumbnails),
        made_of=concepts.made_of(found),
        urls=_urls(found),
        models=_models(found),
        detectors=safety.detectors(found),
        unchecked=safety.not_evaluated(found, truth),
        curves=curves,
        no_training=no_training,
        loss_chart=_loss_chart(curves) if curves else "",
        loss_colours=charts.colours(list(curves.losses)) if curves else {},
        results=results,
        no_evaluation=no_evaluation,
        scores=_scores(results) if results else [],
        headline=_headline(results) if results else {},
        style=Markup((Path(__file__).parent / "style.css").read_text(encoding="utf-8")),
    )  # fmt: skip


def funnel(found: Collected) -> list[Bar]:
    """A stacked bar for every finished stage, all on one scale."""
    scale = max((run.rows_in for run in found.finished), default=0)
    bars: list[Bar] = []
    for run in found.finished:
        unit = UNITS.get(run.stage, IMAGE)
        reasons = sorted(run.dropped.items(), key=lambda item: (-item[1], item[0]))
        colours = charts.colours([reason for reason, _ in reasons])
        words = [f"{plain(reason)} {count:,}" for reason, count in reasons]
        label = f"{STAGE_TITLES[run.stage]}: {run.rows_in:,} {unit} in, {run.kept:,} kept" + (
            f", dropped: {', '.join(words)}" if words else ", none dropped"
        )
        parts = [("kept", run.kept, charts.KEPT), *((plain(r), n, colours[r]) for r, n in reasons)]
        bars.append(
            Bar(
                STAGE_TITLES[run.stage],
                unit,
                not bars or bars[-1].unit != unit,
                run,
                charts.bar(parts, scale, label),
                [(reason, count, colours[reason]) for reason, count in reasons],
                run.rows_in == run.kept + sum(run.dropped.values()),
            )
        )
    return bars


def _kinds(comparison: planted.Comparison) -> list[dict[str, Any]]:
    """The findings by kind of case, in the order they were planted."""
    groups: dict[tuple[str, str, str], list[planted.Finding]] = {}
    for finding in comparison.findings:
        case = finding.case
        groups.setdefault((case.kind, case.stage, case.expected), []).append(finding)
    ordered = sorted(groups.items(), key=lambda item: (STAGES.index(item[0][1]), item[0]))
    return [
        {
            "kind": kind,
            "stage": stage,
            "expected": expected,
            "planted": len(findings),
            "outcomes": Counter(finding.outcome for finding in findings),
            "failed": [f for f in findings if f.outcome in (planted.OTHERWISE, planted.MISSED)],
        }
        for (kind, stage, expected), findings in ordered
    ]


def _planted_exhibits(
    comparison: planted.Comparison, thumbnails: galleries.Thumbnails
) -> list[tuple[Drop, galleries.Exhibit]]:
    """Pictures of the unexpected drops."""
    shown = [drop for drop in comparison.unexpected if drop.image_id is not None][: galleries.PER_REASON]
    return [(drop, galleries.exhibit(drop, thumbnails)) for drop in shown]


def _urls(found: Collected) -> list[dict[str, Any]]:
    """What was refused before there was an image, by stage and reason."""
    groups = []
    for stage in UNITS:
        for reason, drops in found.dropped_by(stage).items():
            bare = [drop for drop in drops if drop.image_id is None]
            if bare:
                groups.append({"stage": stage, "reason": reason, "total": len(bare), "drops": bare[:URLS_PER_REASON]})
    return groups


def _models(found: Collected) -> list[dict[str, Any]]:
    """The embedders as the embedding stage recorded them, with the stages that used each."""
    run = found.runs.get("embed")
    specs = run.recipe.get("models", {}) if run else {}
    models = []
    for name, spec in sorted(specs.items()):
        measured = run.metrics.get(name, {}) if run else {}
        classical = measured.get("kind") == CLASSICAL  # then the adapter is all there is to set
        users = [stage for stage in ("dedup", "cluster", "retrieve") if _uses(found, stage, name)]
        models.append(
            {
                "name": name,
                "kind": measured.get("kind", "kind not recorded"),
                "classical": classical,
                "used_by": [plain(stage) for stage in users],
                "settings": {
                    key: value
                    for key, value in spec.items()
                    if value is not None and (key == "adapter" or not classical)
                },
                "dim": measured.get("dim"),
                "digest": measured.get("digest"),
            }
        )
    return models


def _uses(found: Collected, stage: str, model: str) -> bool:
    return stage in found.runs and found.runs[stage].recipe.get("model") == model


def _loss_chart(curves: companions.Curves) -> Markup:
    ends = [f"{name} from {number(points[0][1])} to {number(points[-1][1])}" for name, points in curves.losses.items()]
    return charts.lines(curves.losses, "step", f"Loss over the training steps: {'; '.join(ends)}")


def _scores(results: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for every protocol and model, with the comparison to the trained model where there is one."""
    against = {(c["baseline"], c["protocol"]): c for c in results.get("comparisons", [])}
    rows = []
    protocols = list(dict.fromkeys(record["protocol"] for record in results["records"]))
    for protocol in protocols:
        for record in results["records"]:
            if record["protocol"] == protocol:
                low, high = record["interval"]
                label = f"{plain(record['model'])}, {protocol}: {record['value']:.1%}, from {low:.1%} to {high:.1%}"
                svg = charts.whisker(record["value"], low, high, label)
                rows.append({**record, "svg": svg, "against": against.get((record["model"], protocol))})
    return rows


def _headline(results: dict[str, Any]) -> dict[str, Any]:
    """Model -> its record at k = 20, which DINO's authors report, or at the smallest k there is."""
    ks = sorted({record["k"] for record in results["records"]})
    k = 20 if 20 in ks else ks[0]
    return {record["model"]: record for record in results["records"] if record["k"] == k}


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        KEEP=KEEP,
        RULES=RULES,
        STAGE_TITLES=STAGE_TITLES,
        PER_REASON=galleries.PER_REASON,
        PER_GROUP=galleries.PER_GROUP,
        AS_EXPECTED=planted.AS_EXPECTED,
        OTHERWISE=planted.OTHERWISE,
        MISSED=planted.MISSED,
        NOT_JUDGED=planted.NOT_JUDGED,
        KEPT_COLOUR=charts.KEPT,
        STAGES=STAGES,
    )
    environment.filters.update(
        plain=plain,
        number=number,
        count=lambda value: f"{value:,}",
        many=many,
        percent=lambda value: f"{value:.1%}",
        pretty=lambda value: json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False),
    )
    return environment
