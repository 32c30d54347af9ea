"""The detectors of faces by themselves: what they find, what they take for a face, their pace, and what a blur leaves.

Pictures with faces are ``faces`` of the real data; those without are every fifth of ``web_animals`` and every third
animal of ``imagenet_samples``. Ours is the detector that the shipped recipes name.
"""

import argparse
import csv
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps

from conf import entry_point, load
from curation.images.decode import decode
from curation.safety.base import FACE, Box, Detector, DetectorSpec, boxes_of
from curation.safety.blur import StillFoundError, reencoded, until_none_found
from curation.safety.loading import load_detector
from spark_jobs.config import CurationConfig
from tests.benchmarks import harness
from tests.conftest import SHARED_DATA

SHOWS_A_PERSON = {  # of the pictures that a detector marked, those in which a person is to be seen, by eye
    "web00158.jpg", "web00739.jpg", "web00814.jpg", "web00937.jpg", "web01017.jpg", "n02111129_Leonberg.jpg",
}  # fmt: skip
FIRST_PLANT_OR_THING = "n0246"  # ImageNet's animals come before it
TURNED = (-15, 15)  # degrees


def main() -> int:
    """Run the benchmark."""
    options = _parser().parse_args()
    cv2.setNumThreads(1)
    detectors = named_detectors(options.detector)
    faces, least = pictures_with_faces(options.data)
    others = pictures_without(options.data)
    turned = [_turned(pixels, angle) for pixels in faces for angle in TURNED]
    blurred = {name: _blurred(faces, detector) for name, detector in detectors.items()}
    rows = {}
    for name, detector in detectors.items():
        counts = [len(found_in(detector, pixels)) for pixels in faces]
        released, given_up = blurred[name]
        rows[name] = {
            "name": detector.name,
            "version": detector.version,
            "licence": detector.licence,
            "recall": float(np.mean([count > 0 for count in counts])),
            "recall_required": float(np.mean([count >= need for count, need in zip(counts, least, strict=True)])),
            "recall_turned": float(np.mean([bool(found_in(detector, pixels)) for pixels in turned])),
            "false_boxes_per_100": 100 * float(np.mean([len(found_in(detector, pixels)) for pixels in others])),
            "found_again": sum(len(found_in(detector, pixels)) for pixels in released),
            "given_up": given_up,
            "found_after_ours": sum(len(found_in(detector, pixels)) for pixels in blurred[harness.OURS][0]),
        }
    timing = harness.measure(
        {name: lambda d=detector: [d.detect(pixels) for pixels in faces] for name, detector in detectors.items()},
        options.rounds,
    )
    for name, row in rows.items():
        row["images_per_s"] = len(faces) / timing.median_s(name)
    print(table(rows))
    rounded = {name: {key: _rounded(value) for key, value in row.items()} for name, row in rows.items()}
    keys = {"faces": len(faces), "face_free": len(others), **timing.speedups(), "detectors": rounded}
    harness.finish("detectors", timing, keys)
    return 0


def named_detectors(specs: Sequence[str]) -> dict[str, Detector]:
    """Ours, nudenet where its extra is installed, and those given as JSON."""
    shipped = load(CurationConfig, "conf/curation/own.yaml").recipe.screen.detectors
    [ours] = [spec for spec in shipped.values() if FACE in spec.labels]
    named = {harness.OURS: ours}
    if find_spec("nudenet"):
        named["nudenet"] = DetectorSpec(adapter="nudenet")
    for number, text in enumerate(specs, 1):
        spec = DetectorSpec.model_validate_json(text)
        named[f"{spec.adapter}_{number}"] = spec
    return {name: load_detector(spec) for name, spec in named.items()}


def pictures_with_faces(data: Path) -> tuple[list[np.ndarray], list[int]]:
    """Upright pixels, and the number of faces that were counted in each by eye."""
    with (data / "faces" / "faces.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    pixels = [_pixels(data / "faces" / "images" / row["file"]) for row in rows]
    return pixels, [int(row["faces_at_least"]) for row in rows]


def pictures_without(data: Path) -> list[np.ndarray]:
    """Pixels of animals, in photographs that show nobody."""
    web = sorted((data / "web_animals" / "images").iterdir())[::5]
    samples = (data / "imagenet_samples" / "resized").rglob("*.jpg")
    animals = sorted(path for path in samples if path.name < FIRST_PLANT_OR_THING)[::3]
    return [_pixels(path) for path in (*web, *animals) if path.name not in SHOWS_A_PERSON]


def found_in(detector: Detector, pixels: np.ndarray) -> list[Box]:
    """The faces that a detector finds."""
    return boxes_of(detector.detect(pixels), [FACE])


def as_released(pixels: np.ndarray) -> np.ndarray:
    """What a reader of the release sees: encoded as JPEG and decoded again."""
    return np.asarray(decode(reencoded(pixels, "JPEG"), pixels.size).image)


def table(rows: dict[str, dict[str, Any]]) -> str:
    """A line for every detector."""
    shares = ("recall", "recall_required", "recall_turned")
    rest = ("false_boxes_per_100", "found_again", "given_up", "found_after_ours", "images_per_s")
    lines = [f"{'':<14}" + "".join(f"{key:>21}" for key in (*shares, *rest))]
    for name, row in rows.items():
        values = [*(f"{row[key]:.1%}" for key in shares), *(f"{row[key]:.4g}" for key in rest)]
        lines.append(f"{name:<14}" + "".join(f"{value:>21}" for value in values))
        lines.append(f"{'':<14}  {row['name']} {row['version']}, {row['licence']}")
    return "\n".join(lines)


def _blurred(pictures: Sequence[np.ndarray], detector: Detector) -> tuple[list[np.ndarray], int]:
    """The pictures as a release would show them, and the number of those that it would drop."""
    released, given_up = [], 0
    for pixels in pictures:
        try:
            result, _, _ = until_none_found(
                pixels, found_in(detector, pixels), lambda picture: found_in(detector, as_released(picture))
            )
        except StillFoundError:
            given_up += 1
        else:
            released.append(as_released(result))
    return released, given_up


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def _turned(pixels: np.ndarray, degrees: float) -> np.ndarray:
    height, width = pixels.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    return cv2.warpAffine(pixels, turn, (width, height), borderMode=cv2.BORDER_REFLECT)


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _parser() -> argparse.ArgumentParser:
    spec = {"adapter": "yunet", "weights": "yunet.onnx", "sha256": "25a6...", "licence": "MIT", "threshold": 0.9}
    example = f"--detector '{json.dumps(spec)}'"
    parser = harness.parser("tests.benchmarks.detectors", "The detectors of faces.", example, rounds=3)
    parser.add_argument("--data", type=Path, default=SHARED_DATA, help="folder of the real data")
    parser.add_argument("--detector", action="append", default=[], help="another detector: its specification as JSON")
    return parser


if __name__ == "__main__":
    entry_point(main)
