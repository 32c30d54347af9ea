"""What the detectors find in encoded images, as rows; and the rows of one image as the ledger's evidence."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from curation.images.decode import DecodeError, decode
from curation.safety.base import UNSEEN, Detector


def finding_rows(
    images: Iterable[tuple[str, bytes]], detectors: Mapping[str, Detector], max_pixels: int
) -> Iterator[dict[str, Any]]:
    """Rows of ``schema.DETECTIONS`` for (image_id, encoded bytes); none for an image in which nothing is found.

    Args:
        images: decoded at their full size, so that the boxes are in pixels of what a release would show.
        detectors: by their names in the recipe.
        max_pixels: as in ``decode``.
    """
    for image_id, data in images:
        try:
            pixels = np.asarray(decode(data, max_pixels).image)
        except DecodeError:
            for name, detector in detectors.items():
                yield _row(image_id, name, detector, UNSEEN, 0.0)
            continue
        for name, detector in detectors.items():
            for found in detector.detect(pixels):
                yield _row(image_id, name, detector, found.label, found.score, found.box)


def record(detector: Detector) -> dict[str, Any]:
    """What a run says of a detector: who it is, by which weights, under which licence, and what it can find."""
    who = {key: getattr(detector, key) for key in ("name", "version", "licence", "digest")}
    return who | {"labels": list(detector.labels)}


def as_evidence(findings: Iterable[Mapping[str, Any]]) -> dict[str, list[list[float]]]:
    """One image's rows as label -> [x, y, width, height, score], sorted; [score] where the whole picture is meant.

    Args:
        findings: label, score, and x, y, width, height, which are None for the whole picture.
    """
    evidence: dict[str, list[list[float]]] = {}
    for row in findings:
        box = [] if row["x"] is None else [row[key] for key in ("x", "y", "width", "height")]
        evidence.setdefault(row["label"], []).append([*box, float(f"{row['score']:.6g}")])
    return {label: sorted(found) for label, found in sorted(evidence.items())}


def _row(
    image_id: str, name: str, detector: Detector, label: str, score: float, box: Sequence[int] | None = None
) -> dict[str, Any]:
    row = {"image_id": image_id, "detector": name, "label": label, "score": score, "model": detector.digest}
    return row | dict(zip(("x", "y", "width", "height"), box or (None,) * 4, strict=True))
