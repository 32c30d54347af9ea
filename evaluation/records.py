"""What a result is: one record per number with everything that made it, and one document that holds them."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.intervals import mcnemar, wilson

CONFIDENCE = 0.95
# Two numbers compare only where all of these are equal.
COMPARABLE = ("protocol", "protocol_hash", "dataset_fingerprint", "split", "n", "metric", "dtype", "resolution")


def accuracy_record(correct: np.ndarray, **made_by: Any) -> dict[str, Any]:
    """The record of a top-1 accuracy.

    Args:
        correct: (n,) bool, one per test image.
        made_by: model, model_sha256, protocol, protocol_hash, dataset_fingerprint, and the other keys of a record.
    """
    hits, n = int(correct.sum()), len(correct)
    low, high = wilson(hits, n, CONFIDENCE)
    return {
        **made_by,
        "metric": "top-1 accuracy",
        "n": n,
        "correct": hits,
        "value": hits / n,
        "interval": [low, high],
        "interval_kind": f"Wilson, {CONFIDENCE:.0%}",
    }


def compare(
    first: Mapping[str, Any], second: Mapping[str, Any], first_correct: np.ndarray, second_correct: np.ndarray
) -> dict[str, Any]:
    """Paired comparison of two records over the same test images.

    Args:
        first: an accuracy record.
        second: another one under the same protocol.
        first_correct: (n,) bool behind ``first``.
        second_correct: (n,) bool behind ``second``, in the same order.

    Raises:
        ValueError: the records were made under different protocols or on different data.
    """
    for key in COMPARABLE:
        if first[key] != second[key]:
            raise ValueError(
                f"{first['model']} and {second['model']} do not compare: {key} is {first[key]!r} and {second[key]!r}; "
                "evaluate both under one protocol on one data set"
            )
    only_first = int((first_correct & ~second_correct).sum())
    only_second = int((second_correct & ~first_correct).sum())
    return {
        "model": first["model"],
        "baseline": second["model"],
        "protocol": first["protocol"],
        "protocol_hash": first["protocol_hash"],
        "n": first["n"],
        "difference": first["value"] - second["value"],
        "only_model_correct": only_first,
        "only_baseline_correct": only_second,
        "test": "McNemar, exact, two-sided",
        "p_value": mcnemar(only_first, only_second),
    }


def commit() -> str | None:
    """The commit of the checkout this package lies in; None outside a checkout."""
    folder = Path(__file__).resolve().parent
    try:
        answer = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def read_results(folder: Path) -> dict[str, Any] | None:
    """The finished results of a folder; None where there are none.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / "results.json"
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path}: is not valid JSON ({error}); remove it and run again") from error


def markdown(document: Mapping[str, Any]) -> str:
    """The results as Markdown tables, every number from a record."""
    data, records = document["dataset"], document["records"]
    protocols = list(dict.fromkeys(record["protocol"] for record in records))
    models = list(dict.fromkeys(record["model"] for record in records))
    cell = {
        (r["model"], r["protocol"]): f"{r['value']:.1%} [{r['interval'][0]:.1%}, {r['interval'][1]:.1%}]"
        for r in records
    }
    p_values = {(c["baseline"], c["protocol"]): c for c in document["comparisons"]}
    baselines = [m for m in models if any(b == m for b, _ in p_values)]
    lines = [
        "# Weighted k-NN",
        "",
        f"Top-1 accuracy on {data['num_test']:,} test images of {data['num_classes']} classes, "
        f"{data['num_train']:,} train images; in brackets the {records[0]['interval_kind']} interval.",
        "",
        *_table(["model", *protocols], [[m, *(cell[m, p] for p in protocols)] for m in models]),
        "",
        "Trained model against each baseline on the same images: difference, and the exact two-sided McNemar p value.",
        "",
        *_table(
            ["baseline", *protocols],
            [
                [b, *(f"{p_values[b, p]['difference']:+.1%} (p = {p_values[b, p]['p_value']:.2g})" for p in protocols)]
                for b in baselines
            ],
        ),
        "",
        f"Protocol {records[0]['protocol_hash'][:16]}, data {data['fingerprint'][:16]}, "
        f"model {records[0]['model_sha256'][:16]}, commit {(document['commit'] or 'unknown')[:16]}.",
    ]
    return "\n".join(lines) + "\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
