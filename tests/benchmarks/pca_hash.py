"""What the PCA hash finds and what it takes for the same: copies of real pictures, and sets of different ones.

The projection is fitted on one of the sets, as the stage fits it on a sample of the crawl; ``cosine`` is the basis that
needs no sample. A copy counts as found when its hash is equal and the second look agrees.
"""

import io
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from conf import entry_point
from curation.images.decode import DecodeError, decode
from curation.images.pca_hash import MAX_DISTANCE, SIDE, PcaHash, copies, cosine_basis, distances, fit
from tests.benchmarks import harness
from tests.benchmarks.screen import POCKET, files_of
from tests.conftest import SHARED_DATA

MAX_PIXELS = 100_000_000
PICTURES = SHARED_DATA / "imagenet_samples" / "resized"
DISTINCT = (SHARED_DATA / "tiny_imagenet", SHARED_DATA / "cifar10", PICTURES)


def main() -> int:
    """Run the measurement."""
    parser = harness.parser(
        "tests.benchmarks.pca_hash",
        "Copies found, and different pictures taken for copies, by the PCA hash.",
        "--pictures pocket --distinct pocket --rounds 3",
    )
    present = PICTURES.is_dir()
    parser.add_argument(
        "--pictures", default=str(PICTURES) if present else POCKET, help=f"folder of pictures to copy, or {POCKET}"
    )
    parser.add_argument("--num-pictures", type=int, default=400, help="that are copied, in the order of their names")
    parser.add_argument(
        "--distinct",
        nargs="+",
        default=[str(folder) for folder in DISTINCT] if present else [POCKET],
        help=f"folders of different pictures; the first is the one that the hash is fitted on; or {POCKET}",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        files = files_of(options.pictures, Path(scratch))[: options.num_pictures]
        pictures = [file.read_bytes() for file in files]
        distinct = {name: _small(files_of(name, Path(scratch))) for name in options.distinct}
    sample = next(iter(distinct.values()))
    hashers = {"fitted": fit(sample), "cosine": cosine_basis()}
    timing = harness.measure({"ours": lambda: hashers["fitted"].hashes(sample)}, options.rounds)
    keys: dict[str, Any] = {"thumbnails_per_s": len(sample) / timing.median_s(), "num_pictures": len(pictures)}
    for name, hasher in hashers.items():
        keys |= {f"recall_{edit}_{name}": share for edit, share in recalls(pictures, hasher).items()}
    for number, (folder, thumbnails) in enumerate(distinct.items()):
        found = pairs(thumbnails, hashers["fitted"])
        print(
            f"{folder}: {len(thumbnails)} pictures, {found[0]} pairs of one hash, {found[1]} of them taken for copies"
        )
        keys |= {f"num_distinct_{number}": len(thumbnails)}
        keys |= {f"pairs_of_one_hash_{number}": found[0], f"copies_{number}": found[1]}
    harness.finish("pca_hash", timing, keys)
    return 0


def recalls(pictures: Sequence[bytes], hasher: PcaHash) -> dict[str, float]:
    """Share of the pictures whose copy is found, for every way of copying."""
    originals = _thumbnails(pictures)
    hashes = hasher.hashes(originals)
    found = {}
    for edit, copied in EDITS.items():
        thumbnails = _thumbnails([copied(decode(data, MAX_PIXELS).image) for data in pictures])
        equal = [a is not None and a == b for a, b in zip(hasher.hashes(thumbnails), hashes, strict=True)]
        near = [
            distances(np.stack(pair))[0, 1] <= MAX_DISTANCE if same else False
            for same, pair in zip(equal, zip(thumbnails, originals, strict=True), strict=True)
        ]
        found[edit] = float(np.mean(near))
    return found


def pairs(thumbnails: np.ndarray, hasher: PcaHash) -> tuple[int, int]:
    """Pairs of pictures with one hash, and copies among them after the second look."""
    hashes = np.array([code or "" for code in hasher.hashes(thumbnails)])
    several = [code for code, count in Counter(hashes.tolist()).items() if code and count > 1]
    groups = [np.flatnonzero(hashes == code) for code in several]
    return sum(len(g) * (len(g) - 1) // 2 for g in groups), sum(len(copies(thumbnails[g])) for g in groups)


def _thumbnails(pictures: Sequence[bytes]) -> np.ndarray:
    return np.stack([np.asarray(decode(data, MAX_PIXELS, SIDE).image) for data in pictures])


def _small(files: Sequence[Path]) -> np.ndarray:
    found = []
    for file in files:
        try:
            found.append(np.asarray(decode(file.read_bytes(), MAX_PIXELS, SIDE).image))
        except DecodeError:
            continue
    return np.stack(found)


def _saved(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _scaled(image: Image.Image, factor: float) -> bytes:
    width, height = (max(1, round(side * factor)) for side in image.size)
    return _saved(image.resize((width, height), Image.Resampling.LANCZOS), "JPEG", quality=90)


EDITS: dict[str, Callable[[Image.Image], bytes]] = {
    "jpeg75": lambda image: _saved(image, "JPEG", quality=75),
    "jpeg40": lambda image: _saved(image, "JPEG", quality=40),
    "webp": lambda image: _saved(image, "WEBP", quality=75, method=1),
    "png": lambda image: _saved(image, "PNG", compress_level=1),
    "double": lambda image: _scaled(image, 2.0),
    "seven_tenths": lambda image: _scaled(image, 0.7),
    "half": lambda image: _scaled(image, 0.5),
}


if __name__ == "__main__":
    entry_point(main)
