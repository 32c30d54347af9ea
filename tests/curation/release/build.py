"""A small release of drawn images, written as the publish stage writes one."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from curation.release.manifest import Manifest, Shard, write_release_files
from curation.release.plan import plan, shard_name
from curation.release.shards import write_shard
from curation.store import Run


def picture(number: int) -> bytes:
    """A PNG of noise: its own for every number, and of a size that is not a multiple of a tar block."""
    pixels = np.random.default_rng(number).integers(0, 256, (8 + number % 5, 9, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


PICTURES = {hashlib.sha256(data).hexdigest()[:32]: data for data in map(picture, range(24))}


def run(stage: str, rows_in: int, kept: int, dropped: dict[str, int] | None = None, after: str | None = None) -> Run:
    inputs = {after: f"{after}-run"} if after else {}
    return Run(stage, f"{stage}-run", {}, inputs, {"decisions": 1}, rows_in, kept, dropped or {}, {})


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
) -> Manifest:
    """Write a release of several shards."""
    folder.mkdir(parents=True)
    ids = list(pictures)
    assigned = plan(ids, np.array([len(pictures[i]) for i in ids]), shard_bytes, seed=7).to_pylist()
    rows, shards = [], []
    for number in sorted({row["shard"] for row in assigned}):
        mine = [row["image_id"] for row in assigned if row["shard"] == number]
        path = folder / shard_name(number)
        with path.open("wb") as file:
            members = write_shard(file, ((i, "png", pictures[i], {"url": f"http://garden.test/{i}"}) for i in mine))
        rows += [
            {"image_id": i, "shard": path.name, **m._asdict(), "source": "all", "cluster": n % 3}
            for n, (i, m) in enumerate(zip(mine, members, strict=True))
        ]
        data = path.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        shards.append(Shard(name=path.name, size_bytes=len(data), sha256=sha256, images=len(mine)))
    return write_release_files(str(folder), pa.Table.from_pylist(rows), shards, runs, recipe or {"seed": 7}, {"m": "0"})
