"""A store of two crawl snapshots and its release, written table by table, so that no stage need run."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from conf import load
from curation import schema
from curation.fetch.tars import TarWriter
from curation.neighbours.index import Tile, write_tiles
from curation.release.reader import ReleaseReader
from curation.store import Run
from spark_jobs.config import CurationConfig
from spark_jobs.tables import RunKey, Tables
from tests.curation.release.build import PICTURES, REGIONS, build

IDS = sorted(PICTURES)
FETCHED, OWN = IDS[:18], IDS[18:]  # the first 12 of a.test, six of pics.b.test; six files of the user's
ROSE, EDITED, SAME, CHAINED = IDS[0], IDS[1], IDS[2], IDS[3]  # ROSE, two copies of it that were dropped, a look-alike
RELEASED = [i for i in IDS if i not in (EDITED, SAME)]
INDEX, DIM = "f" * 32, 8
EMBEDDINGS = schema.embeddings("m")
EDGES = [(ROSE, EDITED, 0.9), (EDITED, CHAINED, 0.8)]
STAGES = schema.STAGES
_TABLES = {
    "extract_links": (schema.LINKS,),
    "download": (schema.ROBOTS, schema.FETCHES),
    "index": (schema.FILES, schema.IMAGES, schema.SIGHTINGS),
    "screen": (schema.SCREENED, schema.DETECTIONS),
    "embed": (schema.COLLECTIONS, EMBEDDINGS),
    "dedup": (schema.TILES, schema.EDGES, schema.REFERENCES, schema.COMPONENTS, schema.FOREST),
    "cluster": (schema.CENTROIDS, schema.CLUSTERS),
    "retrieve": (schema.RETRIEVALS, schema.SELECTION),
    "publish": (schema.RELEASE_SHARDS,),
}
RECIPE: dict[str, Any] = {stage: {} for stage in STAGES}


def url(image_id: str) -> str:
    return f"http://{'a' if image_id in IDS[:12] else 'pics.b'}.test/{image_id[:6]}-picture.png"


@dataclass(frozen=True)
class Made:
    """A store and its release."""

    root: Path

    @property
    def store(self) -> Tables:
        return Tables(str(self.root / "store"))

    @property
    def release(self) -> ReleaseReader:
        return ReleaseReader(str(self.root / "release"))

    @property
    def config(self) -> CurationConfig:
        own = [f"store={self.root / 'store'}", f"release={self.root / 'release'}", "sources.pages=[]"]
        return load(CurationConfig, "conf/curation/demo.yaml", own)

    def shards(self) -> dict[str, str]:
        return {shard.name: shard.sha256 for shard in self.release.manifest.shards}

    def state(self) -> dict[str, list[str]]:
        """Every table, in an order of its own, but for times."""
        names = [*schema.TABLES, EMBEDDINGS.name]
        return {n: sorted(str(sorted((r | {"requested_at": ""}).items())) for r in self._rows(n)) for n in names}

    def _rows(self, name: str) -> list[dict[str, Any]]:
        rows = self.store.table(name).to_pylist()
        return (
            [row | {"tables": ""} for row in rows] if name == "runs" else rows
        )  # a repetition may have one commit less


def make(root: Path) -> Made:
    """Snapshot 1 has the pictures of ``a.test``, snapshot 2 all of them."""
    made = Made(root)
    made.store.write_sources({"photos": str(root / "photos")})
    (root / "photos").mkdir()
    for image_id in OWN:
        (root / "photos" / f"{image_id[:6]}.png").write_bytes(PICTURES[image_id])
    _snapshot(made, 1, FETCHED[:12], None)
    _snapshot(made, 2, IDS, root / "release")
    return made


def _snapshot(made: Made, number: int, images: list[str], release: Path | None) -> None:
    store, places = made.store, {}
    folder = Path(store.uri, "shards", f"download-{number}")
    folder.mkdir(parents=True)
    with (folder / "0-000000-0000.tar").open("wb") as file:
        tar = TarWriter(file)
        for n, image_id in enumerate(i for i in images if i in FETCHED):
            offset = tar.add(f"{n:05d}.png", PICTURES[image_id])
            tar.add(f"{n:05d}.json", json.dumps({"url": url(image_id), "rights": []}).encode())
            places[image_id] = {"shard": f"store:shards/download-{number}/0-000000-0000.tar", "offset_bytes": offset}
        tar.close()
    for image_id in set(images) & set(OWN):
        places[image_id] = {"shard": f"photos:{image_id[:6]}.png", "offset_bytes": 0}
    index = f"indexes/{INDEX}/{number:05d}/shard-00000.arrow"
    Path(store.uri, index).parent.mkdir(parents=True)
    known = store.table(EMBEDDINGS.name, ["image_id"])["image_id"].to_pylist()
    new = [i for i in images if i not in known]
    with Path(store.uri, index).open("wb") as file:
        write_tiles(file, [_tile(new[:4]), _tile(new[4:])])
    sizes = (len(new[:4]), len(new[4:]))
    content = _content(images, places)
    content["embeddings_m"] = [{"image_id": i, "vector": vector(i).tobytes(), "model": "d"} for i in new]
    tile = {"index": INDEX, "collection": "pool", "snapshot": number - 1, "shard": index, "list": 0, "visiting": False}
    content["tiles"] = [tile | {"batch": n, "num_rows": size} for n, size in enumerate(sizes)]
    previous = None
    for stage in STAGES:
        run = RunKey(stage, f"{stage}-{number}", {}, {previous: f"{previous}-{number}"} if previous else {})
        metrics: dict[str, Any] = {"index": INDEX} if stage == "dedup" else {}
        decided = _decisions(stage, images)
        if stage == "publish" and release is not None:
            metrics = _published(made, release, run, decided, content)
        for table in _TABLES[stage]:
            rows = pa.Table.from_pylist(content.get(table.name, []), table.schema)
            if not table.appended:
                store.write(table, rows, run)
            elif not (table.name == "edges" and number == 2):
                store.append(table, rows, run, {})
        delta = store._create(schema.DECISIONS)
        ledger = pa.Table.from_pylist([row | {"run_id": run.run_id} for row in decided], schema.DECISIONS.schema)
        parts = store._put(schema.DECISIONS, ledger, {"stage": stage})
        store._commit(delta, schema.DECISIONS, parts, run, mode="append")
        store.finish(run, len(decided), metrics, _TABLES[stage])
        previous = stage


def vector(image_id: str) -> np.ndarray:
    found = np.random.default_rng(int(image_id[:8], 16)).standard_normal(DIM)
    return (found / np.linalg.norm(found)).astype("<f2")


def _tile(images: list[str]) -> Tile:
    return Tile(pa.array(images), np.stack([vector(i) for i in images]), np.zeros((len(images), 1), np.int32))


def _content(images: list[str], places: dict[str, dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    fetched = [i for i in images if i in FETCHED]
    met = [{"image_id": i, "url": url(i), "rights": []} for i in fetched]
    met += [{"image_id": i, "path": f"photos:{i[:6]}.png", "rights": []} for i in images if i in OWN]
    located = {i: places[i] | {"size_bytes": len(PICTURES[i])} for i in images}
    members = [i for i in images if i not in (EDITED, SAME)]
    together = {"component": ROSE, "representative": ROSE, "similarity": 0.9}
    boxes = {i: [dict(zip(("x", "y", "width", "height"), box, strict=True)) for box in REGIONS[i]] for i in REGIONS}
    return {
        "links": [{"url": url(i), "page_url": "http://a.test/", "alt": f"alt {i[:6]}"} for i in fetched],
        "fetches": [{"url": url(i), "final_url": url(i), **located[i]} for i in fetched],
        "files": [{k: v for k, v in row.items() if k != "rights"} | located[row["image_id"]] for row in met],
        "sightings": met,
        "images": [{"image_id": i} | located[i] for i in images],
        "screened": [{"image_id": i, "format": "PNG"} for i in images],
        "detections": [{"image_id": i, "label": "face"} | box for i, each in boxes.items() for box in each],
        "edges": [
            {"index": INDEX, "collection": "pool", "lower_id": a, "higher_id": b, "similarity": s} for a, b, s in EDGES
        ],
        "components": [{"image_id": i, "witness": ROSE} | together for i in (ROSE, EDITED, CHAINED)],
        "forest": [{"lower_id": a, "higher_id": b, "similarity": s} for a, b, s in EDGES],
        "clusters": [{"collection": "pool", "image_id": i, "cluster": 0} for i in members],
        "retrievals": [{"collection": "pool", "image_id": i, "source": "all"} for i in members],
        "selection": [{"image_id": i, "collection": "pool", "source": "all"} for i in members],
    }


def _decisions(stage: str, images: list[str]) -> list[dict[str, Any]]:
    keep = {"stage": stage, "decision": "keep"}
    fetched = [{"url": url(i)} for i in images if i in FETCHED]
    if stage in ("extract_links", "download"):
        return [keep | row for row in fetched]
    if stage == "index":
        return [keep | {"image_id": i, "url": url(i) if i in FETCHED else f"photos:{i[:6]}.png"} for i in images]
    gone = {"decision": "drop", "evidence": ROSE}
    there = [i for i in images if not (i == SAME and stage != "screen")]
    there = [i for i in there if not (i == EDITED and stage in ("cluster", "retrieve", "publish"))]
    rows = {i: keep | {"image_id": i} for i in there}
    if stage == "screen":
        rows[SAME] |= gone | {"reason": "pca_hash_duplicate"}
    if stage == "dedup":
        rows[EDITED] |= gone | {"reason": "near_duplicate"}
    return list(rows.values())


def _published(
    made: Made, folder: Path, run: RunKey, decided: list[dict[str, Any]], content: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    this = Run("publish", run.run_id, {}, run.inputs, {}, len(decided), len(decided), {}, {})
    last = {stage: found for stage, found in made.store.last_runs().items() if stage != "publish"}
    pictures = {i: PICTURES[i] for i in RELEASED}
    manifest = build(folder, pictures, {**last, "publish": this}, recipe=RECIPE, shard_bytes=3500)
    content["release_shards"] = [
        {
            "number": int(s.name[:5]),
            "inputs": "i" * 64,
            "sha256": s.sha256,
            "size_bytes": s.size_bytes,
            "images": s.images,
        }
        for s in manifest.shards
    ]
    return {"num_shards": manifest.num_shards, "merkle_root": manifest.merkle_root}
