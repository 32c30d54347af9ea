"""Screening from the file to the row: curation.images beside a loop of Pillow's open, load and resize.

Ours reads the file, refuses what is broken, oversized, moving, too small, too long or blank, turns the picture upright,
measures it and hashes it; the peer only decodes and shrinks. ``pillow_draft`` is the peer with the one trick of ours
that it could use too: JPEG decoded at a reduced scale. One process, one thread, detectors apart.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image

from conf import entry_point
from curation.images import pca_hash
from curation.images.decode import decode
from curation.images.quality import QualityRules
from curation.images.screening import screened_rows
from curation.pocket_web import build
from curation.safety.base import DetectorSpec
from curation.safety.loading import load_detector
from tests.benchmarks import harness
from tests.conftest import SHARED_DATA

POCKET = "pocket"
PEER_SIDE = 224  # pixels of the square that the peer makes
FOLDERS = (SHARED_DATA / "imagenet_samples" / "original", SHARED_DATA / "web_animals")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def main() -> int:
    """Run the benchmark."""
    parser = harness.parser(
        "tests.benchmarks.screen",
        "Images screened a second, detectors apart, beside Pillow's open + load + resize.",
        "--images pocket --rounds 3",
    )
    present = [str(folder) for folder in FOLDERS if folder.is_dir()]
    parser.add_argument(
        "--images",
        nargs="+",
        default=present or [POCKET],
        help=f"folders of images, or {POCKET}: the pictures of the pocket web",
    )
    parser.add_argument("--detect", type=int, default=100, help="pictures that each detector looks at")
    options = parser.parse_args()
    if options.detect < 1:
        raise ValueError(f"--detect {options.detect}: give 1 or more")
    with tempfile.TemporaryDirectory() as folder:
        sets = {_name(images): files_of(images, Path(folder)) for images in options.images}
        timings = {name: measure(files, options.rounds) for name, files in sets.items()}
        # every k-th, so that all sets are among them
        every = [file for files in sets.values() for file in files]
        pictures = [pixels(file) for file in every[:: -(-len(every) // options.detect)]]
    keys: dict[str, object] = {"images": {name: len(files) for name, files in sets.items()}}
    for name, timing in timings.items():
        print(f"{name}: {len(sets[name])} images")
        print(timing.table())
        keys[f"images_per_s_{name}"] = len(sets[name]) / timing.median_s()
        keys[f"speedup_pillow_{name}"] = timing.speedup("pillow")["speedup_pillow"]
    total = together(list(timings.values()))
    print("all:")
    keys |= {"images_per_s": sum(map(len, sets.values())) / total.median_s(), **total.speedups()}
    keys["detectors_images_per_s"] = detector_rates(pictures)
    harness.finish("screen", total, keys)
    return 0


def files_of(images: str, scratch: Path) -> list[Path]:
    """The picture files of a folder, or of the pocket web.

    Raises:
        ValueError: there are none.
    """
    folder = Path(images)
    if images == POCKET:
        build(scratch / "web")
        folder = scratch / "web" / "site"
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and readable(file))
    if not files:
        raise ValueError(f"--images {images}: no picture below it; name a folder that has some, or {POCKET}")
    return files


def readable(file: Path) -> bool:
    """Whether the peer reads it; what it cannot read it cannot be timed on."""
    try:
        peer([file])
    except Exception:  # as hostile as the pocket web's files are
        return False
    return True


def measure(files: Sequence[Path], rounds: int) -> harness.Timing:
    """Ours and the peers on one set of files."""
    timing = harness.measure(
        {"ours": lambda: ours(files), "pillow": lambda: peer(files), "pillow_draft": lambda: peer(files, draft=True)},
        rounds,
    )
    assert timing.results["ours"] == len(files), "one row an image"
    return timing


def together(timings: Sequence[harness.Timing]) -> harness.Timing:
    """Several timings as one: the seconds of each round added up."""
    names = timings[0].seconds
    seconds = {name: [sum(parts) for parts in zip(*(t.seconds[name] for t in timings), strict=True)] for name in names}
    return harness.Timing(seconds, {})


def ours(files: Sequence[Path]) -> int:
    """Screen as the stage does; the number of rows."""
    rules, hasher = QualityRules(min_side=64), pca_hash.cosine_basis()
    return len(screened_rows(((file.name, file.read_bytes()) for file in files), rules, hasher))


def peer(files: Sequence[Path], draft: bool = False) -> None:
    """Open, load, resize."""
    for file in files:
        with Image.open(file) as image:
            if draft:
                image.draft(None, (PEER_SIDE, PEER_SIDE))
            image.load()
            image.resize((PEER_SIDE, PEER_SIDE))


def pixels(file: Path) -> np.ndarray:
    """A picture as detectors get it."""
    return np.asarray(decode(file.read_bytes(), QualityRules(min_side=1).max_pixels).image)


def detector_rates(pictures: Sequence[np.ndarray]) -> dict[str, float | None]:
    """Pictures a second of every detector with its defaults; None for one whose weights have to be given."""
    rates: dict[str, float | None] = {}
    for adapter in get_args(DetectorSpec.model_fields["adapter"].annotation):
        try:
            detector = load_detector(DetectorSpec(adapter=adapter))
        except ValueError:
            rates[adapter] = None
            continue
        timing = harness.measure({"ours": lambda d=detector: [d.detect(p) for p in pictures]}, rounds=1)
        rates[adapter] = len(pictures) / timing.median_s()
        print(f"{adapter}: {rates[adapter]:.1f} images/s")
    return rates


def _name(images: str) -> str:
    parts = Path(images).resolve().parts
    return parts[-2] if parts[-1] == "original" else parts[-1]


if __name__ == "__main__":
    entry_point(main)
