"""A small store, release, training, evaluation and truth, written without Spark."""

import hashlib
import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
from deltalake import write_deltalake
from PIL import Image

from curation import schema
from curation.pocket_web.truth import Case, Truth
from curation.release.manifest import INDEX_SCHEMA, Shard, write_release_files
from curation.release.safety import Safety
from curation.schema import Reason
from curation.selection.concepts import balance
from curation.store import Store

HOSTILE = 'http://shop.test/"><script>alert(1)</script>.jpg'


def jpeg(seed: int, side: int = 96) -> bytes:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8))
    out = io.BytesIO()
    coarse.resize((side, side), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return out.getvalue()


def image_id(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


class World:
    """Thirty images: 0..19 kept, 20..24 near-duplicates of 0..4, 25 a leak of evaluation image 90, 26 too small,
    27 no image at all, 28 and 29 not retrieved."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = root / "store"
        self.data = {i: jpeg(i, 20 if i == 26 else 96) for i in [*range(30), 90]}
        self.data[27] = b"<html>this is no picture</html>"
        self.ids = {i: image_id(data) for i, data in self.data.items()}

    def url(self, i: int) -> str:
        return f"http://garden.test/{i}.jpg"

    def write(self) -> "World":
        (self.root / "exam").mkdir(parents=True)
        (self.root / "exam/90.jpg").write_bytes(self.data[90])
        shard = self.store / "shards/aaaa/00000.tar"
        shard.parent.mkdir(parents=True)
        places = _tar(shard, [(self.ids[i] + ".jpg", self.data[i]) for i in range(30)])
        (self.store / "sources.json").write_text(json.dumps({"exam": str(self.root / "exam")}))
        self._table(
            schema.IMAGES,
            [
                {"image_id": self.ids[i], "shard": "store:shards/aaaa/00000.tar", "offset_bytes": o, "size_bytes": s}
                for i, (o, s) in enumerate(places)
            ],
        )
        self._table(
            schema.SIGHTINGS,
            [{"image_id": self.ids[i], "url": self.url(i), "domain": "garden.test"} for i in range(30)],
        )
        place = {"path": "90.jpg", "shard": "exam:90.jpg", "offset_bytes": 0, "size_bytes": -1}
        self._table(schema.COLLECTIONS, [{"collection": "exam", "image_id": self.ids[90], **place}])
        self._table(
            schema.COMPONENTS,
            [
                {
                    "image_id": self.ids[i],
                    "component": self.ids[i % 20],
                    "representative": self.ids[i % 20],
                    "witness": self.ids[i % 20],
                    "similarity": 0.8125,
                }
                for i in [*range(5), *range(20, 25)]
            ],
        )
        self._stages()
        return self

    def _stages(self) -> None:
        near = {20 + i: (Reason.NEAR_DUPLICATE, 0.8125, 0.6, self.ids[i]) for i in range(5)}
        leak = {25: (Reason.EVALUATION_COPY, 0.71, 0.45, self.ids[90])}
        screen = {26: (Reason.TOO_SMALL, 20.0, 64.0, None), 27: (Reason.NOT_AN_IMAGE, None, None, "no decoder")}
        retrieve = {28: (Reason.NOT_RETRIEVED, None, None, None), 29: (Reason.NOT_RETRIEVED, None, None, None)}
        alive = [i for i in range(30) if i not in screen]
        pool = [i for i in alive if i not in {**near, **leak}]
        self.decisions: list[dict] = []
        self.runs: list[dict] = []
        self._stage(
            "extract_links",
            [(self.url(i), None, None) for i in range(30)]
            + [
                (HOSTILE, Reason.BLOCKED_DOMAIN, "shop.test"),
                ("http://leave.test/me.jpg", Reason.PAGE_OPTED_OUT, "meta:noai on http://leave.test/<b>"),
            ],
        )
        self._stage("download", [(self.url(i), None, None) for i in range(30)])
        self._images("screen", range(30), screen)
        self._images(
            "embed", alive, {}, {"models": {"copy": {"adapter": "thumbnail"}, "semantic": {"adapter": "timm"}}}
        )
        self.runs[-1]["metrics"] = json.dumps(
            {"copy": {"kind": "classical", "dim": 256}, "semantic": {"kind": "trained", "dim": 384, "digest": "d" * 64}}
        )
        self._images("dedup", alive, near | leak, {"model": "copy", "threshold": 0.6})
        published = {"task": "exams", "dataset": HOSTILE, "split": None, "images": 1, "retrieved": 24, "final": 24}
        sets = {"exam": {"method": "sample", "collection": None, "published": published}}
        self._images("retrieve", pool, retrieve, {"model": "semantic", "sets": sets})
        self.released = [i for i in pool if i not in retrieve]
        self._clusters(pool)
        self._table(schema.DECISIONS, self.decisions)
        self._table(schema.RUNS, self.runs)

    def _clusters(self, pool: list[int]) -> None:
        """Clusters 0, 1 and 2 by the number of the image; the exam lies in cluster 1."""
        rows = [{"collection": "pool", "image_id": self.ids[i], "cluster": i % 3} for i in pool]
        self._table(schema.CLUSTERS, [*rows, {"collection": "exam", "image_id": self.ids[90], "cluster": 1}])
        self._table(
            schema.SELECTION,
            [
                {"image_id": self.ids[i], "collection": "exam", "source": "sample", "rank": 1, "cluster": i % 3}
                for i in self.released
            ],
        )
        sides = {"pool": pool, "selection": self.released}
        counted = {name: balance(np.bincount([i % 3 for i in images])) for name, images in sides.items()}
        taken = {"rows": 25, "distinct": 20, "credited": 20, "images": 1, "retrieved": 25, "nominal": 25}
        self.runs[-1]["metrics"] = json.dumps({"balance": counted, "sets": {"exam": taken}})

    def _images(self, stage: str, units, drops: dict, recipe: dict | None = None) -> None:
        rows = []
        for i in units:
            reason, score, threshold, evidence = drops.get(i, (None,) * 4)
            rows.append(
                {
                    "image_id": self.ids[i],
                    "reason": reason,
                    "score": score,
                    "threshold": threshold,
                    "evidence": evidence,
                }
            )
        self._finish(stage, rows, recipe or {})

    def _stage(self, stage: str, units: list[tuple]) -> None:
        self._finish(stage, [{"url": url, "reason": reason, "evidence": e} for url, reason, e in units], {})

    def _finish(self, stage: str, rows: list[dict], recipe: dict) -> None:
        run_id = hashlib.sha256(stage.encode()).hexdigest()[:16]
        for row in rows:
            decision = "keep" if row["reason"] is None else "drop"
            self.decisions.append({**row, "stage": stage, "decision": decision, "run_id": run_id})
        dropped = Counter(str(row["reason"]) for row in rows if row["reason"])
        self.runs.append(
            {
                "sequence": len(self.runs),
                "stage": stage,
                "run_id": run_id,
                "recipe": json.dumps(recipe),
                "inputs": json.dumps({}),
                "tables": json.dumps({stage: 0}),
                "rows_in": len(rows),
                "kept": len(rows) - sum(dropped.values()),
                "dropped": json.dumps(dropped),
                "metrics": json.dumps({"seen": len(rows)}),
            }
        )

    def _table(self, table: schema.Table, rows: list[dict]) -> None:
        arrow = pa.Table.from_pylist(
            [{name: row.get(name) for name in table.schema.names} for row in rows], schema=table.schema
        )
        write_deltalake(str(self.store / "tables" / table.name), arrow, partition_by=list(table.partition_by) or None)

    def write_release(self, num_images: int | None = None) -> Path:
        folder = self.root / "release"
        folder.mkdir()
        chosen = self.released[:num_images]
        shards, rows = [], []
        if chosen:
            members = []
            for i in chosen:
                members += [(f"{self.ids[i]}.jpg", self.data[i]), (f"{self.ids[i]}.json", b"{}")]
            places = _tar(folder / "00000.tar", members)[::2]
            data = (folder / "00000.tar").read_bytes()
            shards = [
                Shard(
                    name="00000.tar",
                    size_bytes=len(data),
                    sha256=hashlib.sha256(data).hexdigest(),
                    images=len(chosen),
                )
            ]
            rows = [
                {
                    "image_id": self.ids[i],
                    "shard": "00000.tar",
                    "member": f"{self.ids[i]}.jpg",
                    "offset_bytes": offset,
                    "size_bytes": size,
                    "sha256": hashlib.sha256(self.data[i]).hexdigest(),
                    "metadata_sha256": hashlib.sha256(b"{}").hexdigest(),
                    "source": "exam",
                    "cluster": i % 3,
                    "blurred": 0,
                }
                for i, (offset, size) in zip(chosen, places, strict=True)
            ]
        index = pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)
        runs = Store(str(self.store)).runs()
        models = {"copy": "c" * 64, "semantic": "d" * 64}
        write_release_files(str(folder), index, shards, 1, runs, {}, models, Safety())
        return folder

    def write_truth(self) -> Path:
        cases = [
            Case("edited_jpeg", "dedup", Reason.NEAR_DUPLICATE, self.url(20), image_id=self.ids[20], of=self.url(0)),
            # planted as the copy of 21, of which the ledger chose to keep the copy: right only because of ``either``
            Case(
                "edited_crop", "dedup", Reason.NEAR_DUPLICATE, self.url(1), image_id=self.ids[1], of=self.url(21),
                of_image_id=self.ids[21], either=True,
            ),
            Case("edited_mirror", "dedup", Reason.NEAR_DUPLICATE, self.url(19), image_id=self.ids[19], of=self.url(18)),
            Case("leak", "dedup", Reason.EVALUATION_COPY, self.url(25), image_id=self.ids[25], of="exam/90.jpg"),
            Case("small", "screen", Reason.TOO_SMALL, self.url(26), image_id=self.ids[26]),
            Case("error_page", "screen", Reason.UNSUPPORTED_FORMAT, self.url(27), image_id=self.ids[27]),
            Case("face", "screen", "keep", self.url(5), image_id=self.ids[5], face_boxes=((0, 0, 9, 9),)),
            Case("blocked", "extract_links", Reason.BLOCKED_DOMAIN, HOSTILE),
            Case("noai", "extract_links", Reason.PAGE_OPTED_OUT, "http://leave.test/me.jpg"),
        ]  # fmt: skip
        path = self.root / "truth.json"
        Truth(1, 0, {}, [], [], [], cases, [], []).write(path)
        return path

    def write_training(self) -> Path:
        folder = self.root / "training"
        folder.mkdir()
        lines = [
            json.dumps({"step": s, "loss": 9 - s / 50, "dino": 5 - s / 90, "ibot": 4 - s / 120, "lr": 1e-3 * s})
            for s in range(0, 200, 10)
        ]
        release = json.loads((self.root / "release/manifest.json").read_text())["merkle_root"]
        identity = {"release": {"merkle_root": release}}
        (folder / "run.json").write_text(json.dumps(identity))
        (folder / "model.json").write_text(json.dumps(identity | {"weights_sha256": "c" * 64}))
        (folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 200, "lo')
        return folder

    def write_evaluation(self) -> Path:
        folder = self.root / "evaluation"
        folder.mkdir()
        made_by = {"n": 200, "interval_kind": "Wilson, 95%", "resolution": 56, "dtype": "float32"}
        records = [
            {
                **made_by,
                "model": model,
                "k": k,
                "protocol": f"knn-{k}",
                "value": value,
                "correct": int(value * 200),
                "interval": [value - 0.05, value + 0.05],
            }
            for k in (10, 20)
            for model, value in (("trained", 0.83), ("random_init", 0.52), ("raw_pixels", 0.61))
        ]
        document = {
            "identity": {"protocol_hash": "a" * 64, "dataset_fingerprint": "b" * 64, "model_sha256": "c" * 64},
            "dataset": {"num_test": 200, "num_train": 400, "num_classes": 16, "num_test_identical_to_train": 0},
            "records": records,
            "comparisons": [
                {"baseline": model, "protocol": f"knn-{k}", "p_value": 1e-6}
                for model in ("random_init", "raw_pixels")
                for k in (10, 20)
            ],
        }
        (folder / "results.json").write_text(json.dumps(document))
        return folder


def _tar(path: Path, members: list[tuple[str, bytes]]) -> list[tuple[int, int]]:
    """Write a tar; offset and size of every member's data."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with tarfile.open(path) as tar:
        return [(m.offset_data, m.size) for m in tar.getmembers()]
