"""A tiny release and a tiny recipe: the real thing, seconds long."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from training.config import TrainConfig


def jpeg(seed: int, size: int = 40) -> bytes:
    """A smooth random picture."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def make_release(root: Path, num_images: int = 24, corrupt: int = 0) -> Path:
    """A release of two shards; the bytes of the first ``corrupt`` images end too early."""
    root.mkdir(parents=True)
    rows = []
    for shard in range(2):
        with tarfile.open(root / f"{shard:05d}.tar", "w") as tar:
            for i in range(shard, num_images, 2):
                data = jpeg(i) if i >= corrupt else jpeg(i)[:200]
                image_id = hashlib.sha256(data).hexdigest()[:32]
                for suffix, content in (("jpg", data), ("json", json.dumps({"image_id": image_id}).encode())):
                    info = tarfile.TarInfo(f"{image_id}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
                rows.append((f"{shard:05d}.tar", f"{image_id}.jpg", image_id, len(data)))
    index = []
    for shard, member, image_id, size in rows:
        with tarfile.open(root / shard) as tar:
            offset = tar.getmember(member).offset_data
        index.append(
            {"image_id": image_id, "shard": shard, "member": member, "offset_bytes": offset, "size_bytes": size}
            | {"source": "sample", "cluster": 0}
        )
    pq.write_table(pa.Table.from_pylist(index), root / "index.parquet")
    (root / "manifest.json").write_text(json.dumps({"merkle_root": "ab" * 32}))
    return root


def settings(release: Path, output: Path, recipe: dict | None = None, runtime: dict | None = None) -> TrainConfig:
    """Six steps of a ViT on 32 px; sections in ``recipe`` replace those here."""
    values = {
        "steps": 6,
        "batch_size_global": 4,
        "model": {"arch": "vit_nano", "patch_size": 8, "image_size": 32, "drop_path": 0.3},
        "heads": {"dino": {"prototypes": 32, "hidden": 32, "bottleneck": 16}},
        "crops": {"global_size": 32, "local_size": 16, "num_local": 2},
        "optimiser": {"base_lr": 4e-3, "warmup_steps": 2},
        "teacher": {"momentum": (0.9, 1.0), "temp_warmup_steps": 3},
    }
    return TrainConfig.model_validate(
        {
            "output": str(output),
            "data": {"release": str(release)},
            "recipe": values | (recipe or {}),
            "runtime": {"device": "cpu", "workers": 0, "log_every_steps": 2, "checkpoint_every_steps": 3}
            | {"pictures_every_steps": 0, "tensorboard": False}  # tests of the watch turn them on
            | (runtime or {}),
        }
    )
