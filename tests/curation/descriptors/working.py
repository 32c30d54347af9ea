"""A store with a tar of pictures, a plan to embed them, and what came of it."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from PIL import Image

from curation import schema
from curation.descriptors import plan as plans
from curation.descriptors.base import EmbedderSpec
from curation.descriptors.loading import load_embedder
from curation.descriptors.plan import Plan, Unit
from curation.fetch.tars import TarWriter
from curation.images.ids import image_id
from curation.store import Store

SPEC = EmbedderSpec(adapter="copy_network")
TABLE = schema.embeddings("copies")
SHARD = "store:shards/x/0.tar"
LIMIT = 10_000_000


def picture(seed: int, side: int = 200) -> bytes:
    blocks = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks).resize((side * 4 // 3, side), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def encoded(count: int) -> list[bytes]:
    """Pictures, the third of which is cut off and the fifth none at all."""
    found = [picture(seed) for seed in range(count)]
    if count > 4:
        found[2], found[4] = found[2][:500], b"no picture"
    return found


def put_shard(root: Path, pictures: list[bytes]) -> list[dict]:
    """Write the tar; rows as a unit lists them."""
    path = root / "shards" / "x" / "0.tar"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    with path.open("wb") as file:
        tar = TarWriter(file)
        for number, data in enumerate(pictures):
            place = {"shard": SHARD, "offset_bytes": tar.add(f"{number}.jpg", data), "size_bytes": len(data)}
            rows.append({"image_id": image_id(data), **place, "has_error": False})
        tar.close()
    return rows


def planned(root: Path, rows: list[dict], per_unit: int, spec: EmbedderSpec = SPEC) -> tuple[Store, Plan]:
    """A store with a plan as the stage leaves it."""
    store = Store(str(root))
    uri = store.table_uri(TABLE.name)
    DeltaTable.create(uri, TABLE.schema, mode="ignore")
    version, digest = DeltaTable(uri).version(), load_embedder(spec).digest
    key = plans.key_of(TABLE.name, version, digest, LIMIT, {})
    units = []
    for start in range(0, len(rows), per_unit):
        some = pa.Table.from_pylist(rows[start : start + per_unit], schema=plans.UNIT_SCHEMA)
        units.append(Unit(f"000000-{start:06d}", some.num_rows))
        plans.write_unit(store.uri, key, units[-1].name, some)
    plan = Plan(key, TABLE.name, version, spec.model_dump_json(), digest, LIMIT, tuple(units))
    plans.write_plan(store, plan)
    return store, plan


def parts(store: Store, plan: Plan) -> list[dict]:
    """All rows of the parts that are there, by id."""
    folder = Path(store.table_uri(plan.table))
    rows = [row for path in sorted(folder.glob("part-*.parquet")) for row in pq.read_table(path).to_pylist()]
    return sorted(rows, key=lambda row: row["image_id"])
