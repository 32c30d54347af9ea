"""The page of a run: curves, alarms and pictures in one HTML string."""

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from training import run_folder
from training.watch import alarms
from training.watch.charts import curves

PICTURES_SHOWN = 3  # steps: the first, the last, and one between

Series = dict[str, tuple[np.ndarray, np.ndarray]]  # name -> steps, values


@dataclass(frozen=True)
class Kind:
    """A chart: which keys of the rows it shows, how they are called, and what it tells."""

    title: str
    keys: Mapping[str, str]
    note: str = ""
    alarms: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    scale: float = 1.0


SECTIONS: dict[str, tuple[Kind, ...]] = {
    "Loss": (
        Kind("Loss", {"loss": "loss"}, "what is optimised", ("divergence_loss",)),
        Kind(
            "Its terms",
            {f"loss_{name}": name for name in ("dino_global", "dino_local", "ibot", "koleo")},
            "weighted as they are summed",
        ),
        Kind("k-NN probe", {"probe_knn_top1": "top-1"}, "share of labelled pictures named rightly"),
        Kind(
            "Gradient norms",
            {f"grad_norm_{name}": name for name in ("backbone", "dino_head", "ibot_head")},
            "before they are clipped",
            ("divergence_gradients",),
        ),
    ),
    "Health of the teacher": (
        Kind(
            "Entropy of targets",
            {"health_teacher_entropy": "entropy"},
            "share of ln K; 0: one prototype, 1: all alike",
            ("collapse_constant",),
            alarms.ENTROPY_SHARES,
        ),
        Kind(
            "Nearest neighbour",
            {"health_nearest_distance": "distance"},
            "mean distance of a batch's class tokens, at most 2",
            ("collapse_constant",),
            (alarms.NEAREST_DISTANCE,),
        ),
        Kind(
            "Effective rank",
            {"health_effective_rank": "rank"},
            "directions in which class tokens vary",
            ("collapse_dimensional",),
        ),
        Kind(
            "Prototypes in use",
            {"health_prototype_use": "chosen by a sample", "health_prototype_perplexity": "perplexity of the mean"},
            "share of those that could be",
            ("collapse_prototypes",),
            (alarms.PROTOTYPE_USE,),
        ),
        Kind("Largest logit", {"health_largest_logit": "logit"}, "of the teacher's scores", ("divergence_logits",)),
    ),
    "Speed": (
        Kind("Images a second", {"images_per_s": "images/s"}, "over all processes"),
        Kind("Waiting and working", {"data_wait": "waiting for data, %", "mfu": "MFU, %"}, scale=100),
        Kind("Peak memory", {"peak_memory_bytes": "GiB"}, "GiB, of the first process", scale=2**-30),
    ),
    "Schedules": (
        Kind("Learning rate", {"lr": "most layers", "last_layer_lr": "last layer"}),
        Kind("Weight decay", {"weight_decay": "weight decay"}),
        Kind("Teacher momentum", {"momentum": "momentum"}),
        Kind("Teacher temperature", {"teacher_temp": "temperature"}),
    ),
}


@dataclass(frozen=True)
class Span:
    """An alarm from the step where it began to the one where it ended, None while it is on."""

    alarm: str
    first: int
    last: int | None
    why: str


def build(run: Path) -> str:
    """The page.

    Raises:
        ValueError: the folder holds no metrics.
    """
    rows = list(run_folder.rows(run / run_folder.METRICS))
    if not rows:
        raise ValueError(
            f"{run}: holds no {run_folder.METRICS} with a step in it; name the output of a run of training.launch"
        )
    spans = alarm_spans(run_folder.rows(run / run_folder.ALARMS))
    sections = {name: [_chart(kind, rows, spans) for kind in kinds] for name, kinds in SECTIONS.items()}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        run=run,
        last=rows[-1],
        total=_total_steps(run),
        finished=(run / run_folder.MODEL).is_file(),
        written=datetime.fromtimestamp((run / run_folder.METRICS).stat().st_mtime).strftime("%Y-%m-%d %H:%M"),
        probe=next((row["probe_knn_top1"] for row in reversed(rows) if row.get("probe_knn_top1") is not None), None),
        spans=spans,
        meanings=alarms.MEANINGS,
        sections={name: [chart for chart in charts if chart] for name, charts in sections.items()},
        pictures=_pictures(run / run_folder.PICTURES),
        number=_number,
        style=Markup((Path(__file__).parent / "style.css").read_text(encoding="utf-8")),
    )


def alarm_spans(events: Iterable[Mapping[str, Any]]) -> list[Span]:
    """The alarms of ``alarms.jsonl`` in the order in which they began."""
    spans: list[Span] = []
    for event in events:
        on = [i for i, span in enumerate(spans) if span.alarm == event["alarm"] and span.last is None]
        for i in on:  # a new phase may begin one that the phase before left on
            spans[i] = Span(spans[i].alarm, spans[i].first, event["step"], spans[i].why)
        if event["begins"]:
            spans.append(Span(event["alarm"], event["step"], None, event["why"]))
    return spans


def points(rows: Sequence[Mapping[str, Any]], key: str, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of the rows that have a finite number under a key."""
    found = [(row["step"], row[key] * scale) for row in rows if isinstance(row.get(key), int | float)]
    steps, values = zip(*found, strict=True) if found else ((), ())
    return np.array(steps), np.array(values)


def _chart(kind: Kind, rows: Sequence[Mapping[str, Any]], spans: Sequence[Span]) -> dict[str, Any] | None:
    every = {name: points(rows, key, kind.scale) for key, name in kind.keys.items()}
    series = {name: found for name, found in every.items() if len(found[0])}
    if not series:
        return None
    end = rows[-1]["step"]
    shaded = [(span.first, span.last or end) for span in spans if span.alarm in kind.alarms]
    words = [f"{name} from {values[0]:.4g} to {values[-1]:.4g}" for name, (_, values) in series.items()]
    label = f"{kind.title}: {'; '.join(words)}" + (f"; shaded: {' or '.join(kind.alarms)}" if shaded else "")
    now = ", ".join(_number(values[-1]) for _, values in series.values()) if len(series) == 1 else ""
    svg = curves(series, label, shaded, kind.bounds)
    return {"title": kind.title, "note": kind.note, "now": now, "svg": svg, "alarm": bool(shaded)}


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _total_steps(run: Path) -> int | None:
    """Of all phases; None where ``run.json`` does not say."""
    try:
        recipe = json.loads((run / run_folder.IDENTITY).read_bytes())["recipe"]
        return sum(part["steps"] for part in (recipe, *recipe["phases"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _pictures(folder: Path) -> list[dict[str, Any]]:
    """Of the first step that has some, the last, and what is between, as data URIs."""
    found: dict[int, dict[str, Path]] = {}
    for path in sorted(folder.glob("step_*_*.png")):
        _, step, name = path.stem.split("_", 2)
        found.setdefault(int(step), {})[name] = path
    steps = sorted(found)
    count = min(len(steps), PICTURES_SHOWN)
    chosen = [steps[math.ceil(i * (len(steps) - 1) / max(count - 1, 1))] for i in range(count)]
    return [
        {
            "step": step,
            "shown": {
                name: "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
                for name, path in sorted(found[step].items(), reverse=True)
            },
        }
        for step in chosen
    ]
