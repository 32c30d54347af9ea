"""Stores whose stages up to ``embed`` are said to have run on vectors that a test makes up."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from conf import load
from curation import schema
from spark_jobs import dedup
from spark_jobs.config import CurationConfig
from spark_jobs.ledger import ledger_rows
from spark_jobs.stage import Report, execute
from spark_jobs.tables import RunKey, Tables

MODEL = "a" * 64
UPSTREAM = schema.STAGES[: schema.STAGES.index("dedup")]


@dataclass
class Pool:
    """A store, and how deduplication is run on it.

    Attributes:
        spark: the session.
        folder: an empty one.
        overrides: of the demo's recipe.
    """

    spark: object
    folder: Path
    overrides: list[str] = field(default_factory=list)
    runs: int = 0
    embedded: set[str] = field(default_factory=set)

    @property
    def store(self) -> Tables:
        return Tables(str(self.folder / "store"))

    def config(self, *overrides: str) -> CurationConfig:
        own = [f"store={self.folder / 'store'}", f"release={self.folder / 'release'}"]
        own += ["recipe.dedup.threshold=0.6", "recipe.dedup.reference_threshold=0.5", "recipe.dedup.against=[]"]
        own += ["sources.pages=[]", "runtime.partitions=2"]
        return load(CurationConfig, "conf/curation/demo.yaml", [*own, *self.overrides, *overrides])

    def embed(self, vectors: dict[str, np.ndarray], sets: dict[str, dict[str, np.ndarray]] | None = None) -> None:
        """Let these images, and these members of sets, be what is embedded now."""
        store, sets = self.store, sets or {}
        store.ensure(schema.DECISIONS)
        self.runs += 1
        everything = vectors | {i: v for members in sets.values() for i, v in members.items()}
        rows = [
            {"image_id": i, "vector": v.astype("<f2").tobytes(), "model": MODEL, "error": None}
            for i, v in everything.items()
            if i not in self.embedded
        ]
        self.embedded |= set(everything)
        sides = {i: 100 + int(i[-2:], 16) % 5 for i in vectors}  # few sizes, so that ids break many ties
        content = {
            "screened": [{"image_id": i, "width": side, "height": side} for i, side in sides.items()],
            "images": [{"image_id": i, "shard": "x:y", "offset_bytes": 0, "size_bytes": 999} for i in vectors],
            "collections": [
                {"collection": name, "image_id": i, "path": i} for name, members in sets.items() for i in members
            ],
            "embeddings_classical_copy": rows,
        }
        previous = None
        for stage in UPSTREAM:
            run = RunKey(stage, f"{stage}{self.runs}", {}, {previous: f"{previous}{self.runs}"} if previous else {})
            mine = [name for name, owner in OWNERS.items() if owner == stage]
            tables = [schema.embeddings("classical_copy") if "_" in name else schema.TABLES[name] for name in mine]
            for table in tables:
                wanted = pa.Table.from_pylist(content[table.name], table.schema)
                if table.appended:
                    store.append(table, wanted, run, {})
                else:
                    store.write(table, wanted, run)
            kept = [(i,) for i in vectors] if stage == "embed" else []
            if kept:
                frame = self.spark.createDataFrame(kept, "image_id string").coalesce(1)
                store.append_decisions(ledger_rows(frame, image_id="image_id"), run)
            metrics = {"classical_copy": {"digest": MODEL}} if stage == "embed" else {}
            store.finish(run, len(kept), metrics, tables)
            previous = stage

    def dedup(self, *overrides: str) -> Report:
        """Run the stage."""
        return execute(dedup.STAGE, self.store, self.config(*overrides), lambda: self.spark)


OWNERS = {"images": "index", "screened": "screen", "collections": "embed", "embeddings_classical_copy": "embed"}


def against(*names: str) -> list[str]:
    """Overrides that name reference sets whose folders nobody reads."""
    return [*(f"sources.collections.{name}=/nowhere" for name in names), f"recipe.dedup.against={json.dumps(names)}"]


def planted(seed: int, groups: int, alone: int, dim: int = 32, spread: float = 0.12) -> dict[str, np.ndarray]:
    """Unit vectors by hexadecimal id: groups of up to five that lie close together, and others by themselves."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((groups + alone, dim))
    sizes = [*rng.integers(2, 6, groups), *[1] * alone]
    vectors = {}
    for centre, size in zip(centres, sizes, strict=True):
        for _ in range(size):
            vector = centre / np.linalg.norm(centre) + spread * rng.standard_normal(dim)
            vectors[rng.bytes(16).hex()] = (vector / np.linalg.norm(vector)).astype(np.float16)
    return dict(sorted(vectors.items()))
