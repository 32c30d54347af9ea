"""A release together with a store that tells how it came about: 24 images released, one too small, one file twice."""

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

from curation.schema import STAGES
from curation.store import Run
from curation.takedown.tombstones import IMAGE, URL, Tombstones
from tests.curation.audit.stored import put, run_row
from tests.curation.release.build import FACES, PICTURES, REGIONS, build

IDS = sorted(PICTURES)
SMALL = "0" * 32
REFERENCE = "1" * 32
INDEX = "2" * 32
DROPPED = {"index": {"exact_duplicate": 1}, "screen": {"too_small": 1}}
STONES = Tombstones(b"k" * 32, {})
RECIPE: dict[str, Any] = {stage: {} for stage in STAGES} | {
    "dedup": {"against": ["exam"], "reference_threshold": 0.5, "model": "copies"}
}


def url(image_id: str) -> str:
    return f"http://garden.test/{image_id}"


def face(image_id: str, box: list[int]) -> dict[str, Any]:
    x, y, width, height = box
    place = {"x": x, "y": y, "width": width, "height": height}
    return {"image_id": image_id, "detector": "faces", "label": "face", "score": 0.9, "model": "f" * 64, **place}


@functools.cache
def merkle_root() -> str:
    """Of every release that ``write_release`` writes from the same pictures."""
    with tempfile.TemporaryDirectory() as folder:
        return build(Path(folder) / "release").merkle_root


def tables() -> dict[str, list[dict[str, Any]]]:
    """The store's tables; every image, and a second file of the first one."""
    decisions, runs, previous = [], [], None
    for number, stage in enumerate(STAGES):
        run_id = f"{stage}-run"
        if stage in ("extract_links", "download", "index"):
            subjects = [{"url": url(i), "image_id": i if stage == "index" else None} for i in [*IDS, SMALL]]
            second = {"url": "http://garden.test/again", "image_id": IDS[0] if stage == "index" else None}
            subjects.append(second | ({"reason": "exact_duplicate"} if stage == "index" else {}))
        else:
            subjects = [{"image_id": i} for i in IDS]
            subjects += [{"image_id": SMALL, "reason": "too_small"}] if stage == "screen" else []
        keep = [
            {"decision": "drop" if "reason" in s else "keep", "stage": stage, "run_id": run_id} | s for s in subjects
        ]
        decisions += keep
        row = run_row(number, stage, len(subjects), DROPPED.get(stage, {}), previous)
        metrics = {
            "screen": {"detectors": {"faces": FACES.model_dump()}},
            "dedup": {"index": INDEX, "collections": {"exam": "exam"}},
            "publish": {"merkle_root": merkle_root()},
        }.get(stage, {})
        runs.append(row | {"recipe": json.dumps(RECIPE[stage]), "metrics": json.dumps(metrics)})
        previous = stage
    return {
        "runs": runs,
        "decisions": decisions,
        "sightings": [{"image_id": i, "url": url(i), "rights": ["meta:noindex"]} for i in [*IDS, SMALL]],
        "collections": [{"collection": "exam", "image_id": REFERENCE, "path": "exam:1.png"}],
        "edges": [{"index": INDEX, "collection": "exam", "lower_id": SMALL, "higher_id": REFERENCE, "similarity": 0.9}],
        "detections": [face(image_id, box) for image_id, boxes in REGIONS.items() for box in boxes],
        "takedowns": [taken_down(IMAGE, SMALL), taken_down(URL, "http://garden.test/gone")],
    }


def taken_down(kind: str, value: str) -> dict[str, str]:
    return {"tombstone": STONES.of(kind, value), "kind": kind, "request": f"request-{kind}"}


def write_store(folder: Path, content: dict[str, list[dict[str, Any]]]) -> Path:
    (folder / "takedowns").mkdir(parents=True, exist_ok=True)
    (folder / "takedowns" / "key").write_bytes(STONES.key)
    for name, rows in content.items():
        put(folder, name, rows)
    return folder


def write_release(folder: Path, **changes: Any) -> Path:
    runs, previous = {}, None
    for number, stage in enumerate(STAGES):
        row = run_row(
            number, stage, 26 if number < 3 else 25 if stage == "screen" else 24, DROPPED.get(stage, {}), previous
        )
        inputs = {previous: f"{previous}-run"} if previous else {}
        versions = {} if stage == "publish" else {"decisions": number}
        counts = (row["rows_in"], row["kept"], DROPPED.get(stage, {}))
        runs[stage] = Run(stage, row["run_id"], RECIPE[stage], inputs, versions, *counts, {})
        previous = stage
    build(folder, **({"runs": runs, "recipe": RECIPE} | changes))
    return folder
