"""A small release of drawn images, written as the publish stage writes one."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from curation.release.manifest import Manifest, Shard, write_release_files
from curation.release.plan import fitting_shards, plan, shard_name
from curation.release.safety import Blurred, DetectorRecord, Safety
from curation.release.shards import write_shard
from curation.store import Run


def picture(number: int, hidden: bool = False) -> bytes:
    """A PNG of noise: its own for every number, and of a size that is not a multiple of a tar block.

    Where ``hidden`` is set its upper half is grey.
    """
    pixels = np.random.default_rng(number).integers(0, 256, (8 + number % 5, 9, 3), dtype=np.uint8)
    if hidden:
        pixels[:4] = 128
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def identifier(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


# image id -> the boxes that are blurred in it; image id, of the picture as curated -> the bytes as released
REGIONS = {identifier(picture(20)): [[0, 0, 9, 4]], identifier(picture(22)): [[0, 0, 4, 4], [4, 0, 5, 4]]}
PICTURES = {identifier(picture(n)): picture(n, hidden=identifier(picture(n)) in REGIONS) for n in range(24)}
FACES = DetectorRecord(name="faces", version="1", licence="Apache-2.0", digest="f" * 64, labels=["face"])
SAFETY = Safety(detectors={"faces": FACES}, blurred=Blurred(labels=["face"], images=2, regions=3))


def run(stage: str, rows_in: int, kept: int, dropped: dict[str, int] | None = None, after: str | None = None) -> Run:
    inputs = {after: f"{after}-run"} if after else {}
    return Run(stage, f"{stage}-run", {}, inputs, {"decisions": 1}, rows_in, kept, dropped or {}, {})


def metadata(image_id: str) -> dict:
    return {"url": f"http://garden.test/{image_id}", "blurred": REGIONS.get(image_id, [])}


RUNS = {
    "index": run("index", 26, 25, {"exact_duplicate": 1}),
    "screen": run("screen", 25, 24, {"too_small": 1}, after="index"),
    "publish": run("publish", 24, 24, after="screen"),
}


def build(
    folder: Path,
    pictures: dict[str, bytes] = PICTURES,
    runs: dict[str, Run] = RUNS,
    recipe: dict | None = None,
    shard_bytes: int = 8000,
    safety: Safety = SAFETY,
) -> Manifest:
    """Write a release of several shards."""
    folder.mkdir(parents=True)
    ids = list(pictures)
    num_shards = fitting_shards(np.array([len(pictures[i]) for i in ids]), shard_bytes)
    assigned = plan(ids, num_shards, seed=7).to_pylist()
    rows, shards = [], []
    for number in sorted({row["shard"] for row in assigned}):
        mine = [row["image_id"] for row in assigned if row["shard"] == number]
        path = folder / shard_name(number)
        with path.open("wb") as file:
            members = write_shard(file, ((i, "png", pictures[i], metadata(i)) for i in mine))
        rows += [
            {"image_id": i, "shard": path.name, **m._asdict(), "source": "all", "cluster": n % 3}
            | {"blurred": len(REGIONS.get(i, []))}
            for n, (i, m) in enumerate(zip(mine, members, strict=True))
        ]
        data = path.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        shards.append(Shard(name=path.name, size_bytes=len(data), sha256=sha256, images=len(mine)))
    index = pa.Table.from_pylist(rows)
    return write_release_files(str(folder), index, shards, num_shards, runs, recipe or {"seed": 7}, {"m": "0"}, safety)
