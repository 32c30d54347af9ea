"""What the report says of people and unsafe content: who looked, at how much, and what came of it."""

from typing import Any

from curation.pocket_web.truth import Truth
from curation.report.collect import Collected
from curation.report.words import many
from curation.safety.base import FACE, NSFW


def detectors(found: Collected) -> list[dict[str, Any]]:
    """The detectors of the screening run: what is on record of each, and what it looked at and found."""
    run = found.runs.get("screen")
    records = run.metrics.get("detectors", {}) if run else {}
    counts = run.metrics.get("detections", {}) if run else {}
    return [
        {"key": key, **record, **counts.get(key, {"images": None, "images_with_boxes": None, "boxes": None})}
        for key, record in sorted(records.items())
    ]


def not_evaluated(found: Collected, truth: Truth | None) -> list[tuple[str, str]]:
    """(what, sentence) of everything nobody looked for: said, never counted as zero."""
    looked_for = {label for detector in detectors(found) for label in detector["labels"]}
    planted = sum(bool(case.face_boxes) for case in truth.cases) if truth else 0
    faces = "No detector of this run looks for faces."
    faces += f" {many(planted, 'case')} with a face planted; nothing looked for them." if planted else ""
    sentences = {FACE: ("Faces", faces), NSFW: ("NSFW", "No detector of this run scores unsafe content.")}
    return [sentence for label, sentence in sentences.items() if label not in looked_for]
