"""What the training and the evaluation left beside a store, as plain data; an absent part is a sentence."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Curves:
    """The per-step records of a training run: key -> (step, value) points."""

    series: dict[str, list[tuple[float, float]]]

    @property
    def losses(self) -> dict[str, list[tuple[float, float]]]:
        """The curves of the loss and its terms, the whole loss first."""
        names = [name for name in self.series if "loss" in name or name in ("dino", "ibot", "koleo")]
        return {name: self.series[name] for name in sorted(names, key=lambda n: (n not in ("loss", "total_loss"), n))}

    @property
    def others(self) -> dict[str, list[tuple[float, float]]]:
        """Everything else that was recorded: schedules, norms, throughput."""
        return {name: points for name, points in self.series.items() if name not in self.losses}


def training(folder: str | None, merkle_root: str | None) -> tuple[Curves | None, str | None]:
    """The training's records, or a sentence that says why there are none to show.

    Args:
        folder: of the training run.
        merkle_root: of the release that the report is about; None without one.

    Raises:
        ValueError: ``model.json`` or ``run.json`` is damaged.
    """
    if folder is None:
        return None, "No training was named."
    path = Path(folder) / "metrics.jsonl"
    if not path.is_file():
        return None, "The training has left no metrics.jsonl yet."
    if (foreign := _foreign(folder, merkle_root)) is not None:
        return None, foreign
    series: dict[str, dict[float, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        record = _object(line)
        step = record.get("step")
        if not isinstance(step, int | float):
            continue
        for name, value in _numbers(record):
            if name != "step":
                series.setdefault(name, {})[step] = value  # a step that was run again replaces the first time
    if not series:
        return None, "The training's metrics.jsonl holds no step yet."
    return Curves({name: sorted(points.items()) for name, points in series.items()}), None


def evaluation(
    folder: str | None, training: str | None, merkle_root: str | None
) -> tuple[dict[str, Any] | None, str | None]:
    """The evaluation's results, or a sentence that says why there are none to show.

    Args:
        folder: of the evaluation.
        training: folder of the training run whose model it must have scored.
        merkle_root: of the release that the model must have been trained on.

    Raises:
        ValueError: ``results.json``, ``model.json`` or ``run.json`` is damaged.
    """
    if folder is None:
        return None, "No evaluation was named."
    path = Path(folder) / "results.json"
    if not path.is_file():
        return None, "The evaluation has left no results.json yet."
    document = _document(path)
    if not document.get("records"):
        return None, "The evaluation's results.json holds no record."
    if training is None:
        return None, "No training was named, so nothing says which data the evaluation's model was trained on."
    if (foreign := _foreign(training, merkle_root)) is not None:
        return None, f"{foreign} So are the evaluation's."
    model = Path(training) / "model.json"
    if not model.is_file():
        return None, "The training has left no model.json yet, so the evaluation is of another model; it is left out."
    if document.get("identity", {}).get("model_sha256") != _document(model).get("weights_sha256", ""):
        return None, "The evaluation is of another model than this training's; its figures are left out."
    return document, None


def _foreign(training: str, merkle_root: str | None) -> str | None:
    """Why a training is not known to be of this release; None where it is."""
    if merkle_root is None:
        return "Without a finished release nothing says what the training was on; its figures are left out."
    paths = [Path(training) / name for name in ("model.json", "run.json")]  # the second while it is still running
    release = next((_document(path).get("release") for path in paths if path.is_file()), None)
    if not isinstance(release, dict) or not release.get("merkle_root"):
        return "The training does not say which release it is of; its figures are left out."
    if release["merkle_root"] != merkle_root:
        return "The training is of another release than this report; its figures are left out."
    return None


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: is not valid JSON ({error}); remove it and run again") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path}: is not a JSON object; remove it and run again")
    return document


def _object(line: str) -> dict[str, Any]:
    """A line's record; a last line that a killed run left half-written is no record."""
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _numbers(record: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found = []
    for name, value in record.items():
        if isinstance(value, dict):
            found += _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            found.append((prefix + name, float(value)))
    return found
