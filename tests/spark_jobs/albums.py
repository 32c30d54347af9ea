"""Small sets of drawn pictures in Parquet, with the URLs they come from, and a store made of them."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from conf import load
from curation.images.ids import image_id
from spark_jobs.config import CurationConfig


def picture(number: int, side: int = 128, quality: int = 90) -> bytes:
    """A JPEG of soft colours: its own for every number, and nearly the same at any side and quality."""
    seeds = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(seeds).resize((side, side), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def cropped(number: int, share: float = 0.08) -> bytes:
    """A near-duplicate: the middle of the picture, another size and quality."""
    with Image.open(io.BytesIO(picture(number, 256))) as image:
        cut = round(256 * share)
        buffer = io.BytesIO()
        image.crop((cut, cut, 256, 256)).resize((140, 140)).save(buffer, "JPEG", quality=70)
    return buffer.getvalue()


def write_album(path: Path, pictures: dict[str, bytes]) -> None:
    """A Parquet file of pictures by URL, uncompressed, as a set that others hand out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = pa.table({"image": list(pictures.values()), "url": list(pictures)})
    pq.write_table(rows, path, compression="none", use_dictionary=False)


def config_of(out: Path, sources: dict[str, Path], *overrides: str) -> CurationConfig:
    """The demo's recipe on albums alone: nothing is asked of a web, and all that stays is released."""
    own = [f"store={out / 'store'}", f"release={out / 'release'}", "sources.pages=[]", "sources.collections={}"]
    own += [f"sources.images.{name}={folder}" for name, folder in sources.items()]
    own += ["recipe.dedup.against=[]", "recipe.retrieve.sets={}", "recipe.screen.detectors={}"]
    own += ["recipe.cluster.num_clusters=2", "recipe.publish.shard_bytes=20000", "runtime.partitions=2"]
    return load(CurationConfig, "conf/curation/demo.yaml", [*own, *overrides])


def ids(pictures: dict[str, bytes]) -> dict[str, str]:
    return {url: image_id(data) for url, data in pictures.items()}


def files_with(roots: list[Path], text: bytes) -> list[str]:
    """Files that hold some bytes."""
    every = (path for root in roots for path in sorted(root.rglob("*")) if path.is_file())
    return [str(path) for path in every if text in path.read_bytes()]


def runs_of(store) -> dict[str, str]:
    return {row["run_id"]: json.dumps(row, sort_keys=True) for row in store.table("runs").to_pylist()}
