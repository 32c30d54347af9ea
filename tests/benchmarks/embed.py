"""Images embedded a second: the worker beside a plain loop of timm and a DataLoader, same network, same cores.

Ours reads a tar shard of the store, decodes JPEG at a reduced scale where that is enough, embeds and writes a Parquet
part of fp16 vectors. The peer reads files, decodes, resizes, crops and normalises by timm's own transform in as many
worker processes as cores, and runs the network; it writes nothing. It is timed with batches as people choose them and
with our small ones, which suit a CPU's caches. All of it is timed in fp32 and in bf16.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import timm
import torch
from deltalake import DeltaTable
from PIL import Image
from safetensors.torch import save
from timm.data import create_transform
from torch.utils.data import DataLoader, Dataset

from conf import entry_point
from curation import schema
from curation.descriptors import plan as plans
from curation.descriptors.base import EmbedderSpec
from curation.descriptors.loading import load_embedder
from curation.descriptors.plan import Plan, Unit
from curation.descriptors.worker import Effort
from curation.fetch.tars import TarWriter
from curation.images.ids import image_id
from curation.store import Store
from tests.benchmarks import harness
from tests.benchmarks.screen import FOLDERS, POCKET, files_of

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LIMIT = 100_000_000
TABLE = schema.embeddings("benchmark")
SHARD = "shards/benchmark/0.tar"


def main() -> int:
    """Run the benchmark."""
    parser = harness.parser(
        "tests.benchmarks.embed",
        "Images embedded a second, beside a plain loop of timm and a DataLoader.",
        "--model resnet50 --size 288 --num-images 200 --rounds 3",
        rounds=3,
    )
    present = [str(folder) for folder in FOLDERS if folder.is_dir()]
    parser.add_argument("--images", nargs="+", default=present or [POCKET], help=f"folders of images, or {POCKET}")
    parser.add_argument("--num-images", type=int, default=200, help="every k-th of them, so many")
    parser.add_argument("--model", default="tf_efficientnet_lite0", help="timm's name; its weights are random")
    parser.add_argument("--size", type=int, default=224, help="pixels of the square input")
    parser.add_argument("--batch-size", type=int, default=8, help="ours")
    parser.add_argument("--peer-batch-size", type=int, default=64, help="the peer's")
    options = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        every = [file for images in options.images for file in files_of(images, scratch)]
        files = every[:: max(1, len(every) // options.num_images)][: options.num_images]
        network = timm.create_model(options.model, pretrained=False, num_classes=0).eval()
        # their processes start before Arrow's threads do
        plain = Plain(network, files, options.size, options.peer_batch_size)
        small = Plain(network, files, options.size, options.batch_size)
        weights = scratch / "weights.safetensors"
        weights.write_bytes(save(network.state_dict()))
        specification = {"adapter": "timm", "weights": str(weights), "sha256": _sha256(weights), "model": options.model}
        specification |= {"size": options.size, "batch_size": options.batch_size}
        shard = put_shard(scratch / "store", files)
        keys: dict[str, Any] = {"images": len(files), "model": options.model}
        for precision in ("fp32", "bf16"):
            worker = Worker(
                scratch / "store", shard, EmbedderSpec.model_validate(specification | {"precision": precision})
            )
            suffix = "" if precision == "fp32" else f"_{precision}"
            contenders: dict[str, Callable[[], Any]] = {"ours": worker.run}
            contenders |= {f"timm{suffix}": lambda p=precision: plain.run(p)}
            contenders |= {f"timm_small_batches{suffix}": lambda p=precision: small.run(p)}
            timing = harness.measure(contenders, options.rounds)
            effort = timing.results["ours"]
            keys |= {f"images_per_s{suffix}": len(files) / timing.median_s(), **timing.speedups()}
            keys |= {f"{name}{suffix}": share for name, share in effort.shares().items()}
            keys[f"agreement{suffix}"] = agreement(worker.vectors(), timing.results[f"timm{suffix}"])
            if precision == "fp32":
                first = timing
            else:
                print(f"{precision}:\n{timing.table()}\nfp32:")
        harness.finish("embed", first, keys)
    return 0


class Pictures(Dataset):
    """What a user writes: open, convert, transform."""

    def __init__(self, files: Sequence[Path], transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self._files, self._transform = files, transform

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self._files[index]) as image:
            return self._transform(image.convert("RGB"))


class Plain:
    """The peer: the loop of timm's documentation, in order, on all cores."""

    def __init__(self, network: torch.nn.Module, files: Sequence[Path], size: int, batch_size: int) -> None:
        transform = create_transform(size, is_training=False, crop_pct=1.0, interpolation="bicubic", mean=MEAN, std=STD)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._network = network.to(self._device)
        cores = cores_of_this()
        self._loader = DataLoader(
            Pictures(files, transform), batch_size, num_workers=cores, persistent_workers=True, pin_memory=False
        )
        for _ in self._loader:  # starts the processes, which stay
            pass

    def run(self, precision: str) -> np.ndarray:
        """All features, [n, dim] float32."""
        torch.set_num_threads(cores_of_this())
        bf16 = precision == "bf16"
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=bf16):
            return torch.cat([self._network(batch.to(self._device)).float().cpu() for batch in self._loader]).numpy()


@dataclass
class Worker:
    """Ours: one unit of a plan, from the shard to the part."""

    root: Path
    shard: list[dict[str, Any]]
    spec: EmbedderSpec

    def __post_init__(self) -> None:
        self._embedder = load_embedder(self.spec)
        self._store = Store(str(self.root))
        DeltaTable.create(self._store.table_uri(TABLE.name), TABLE.schema, mode="ignore")
        key, self._unit = self._embedder.digest[:16], Unit("0", len(self.shard))
        plans.write_unit(self._store.uri, key, "0", pa.Table.from_pylist(self.shard, schema=plans.UNIT_SCHEMA))
        spec = self.spec.model_dump_json()
        self._plan = Plan(key, TABLE.name, 0, spec, self._embedder.digest, LIMIT, (self._unit,))

    def run(self) -> Effort:
        """Embed all of it."""
        return plans.embed_unit(self._store, self._plan, self._unit, self._embedder, cores_of_this())

    def vectors(self) -> Iterator[np.ndarray]:
        """What the part holds, in order."""
        part = pq.read_table(f"{self._store.table_uri(TABLE.name)}/{self._plan.part(self._unit)}")
        for vector in part["vector"].to_pylist():
            yield np.frombuffer(vector, "<f2").astype(np.float32)


def put_shard(root: Path, files: Sequence[Path]) -> list[dict[str, Any]]:
    """Pack the files into a tar of the store; rows of a unit."""
    path = root / SHARD
    path.parent.mkdir(parents=True)
    rows = []
    with path.open("wb") as file:
        tar = TarWriter(file)
        for number, source in enumerate(files):
            data = source.read_bytes()
            place = {"offset_bytes": tar.add(f"{number:08d}{source.suffix}", data), "size_bytes": len(data)}
            rows.append({"image_id": image_id(data), "shard": f"store:{SHARD}", **place, "has_error": False})
        tar.close()
    return rows


def agreement(ours: Iterator[np.ndarray], theirs: np.ndarray) -> float:
    """Mean cosine between both vectors of an image: that both did the same work."""
    unit = theirs / np.linalg.norm(theirs, axis=1, keepdims=True)
    return float(np.mean([one @ other for one, other in zip(ours, unit, strict=True)]))


def cores_of_this() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    entry_point(main)
