"""The steps of a takedown. Each finds for itself what is left to do, so that all of them can be done again."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curation import schema
from curation.descriptors import plan as plans
from curation.release.manifest import Manifest, Stage, write_release_files
from curation.release.placing import finish_exchange, is_release, partial_folder, put_in_place, replaced_folder
from curation.release.reader import ReleaseReader
from curation.release.removal import remove_images, safety_of, touched
from curation.store import Run, Store, locate
from curation.takedown.erase import erase_image, forget_in_index, pieces_that_name
from curation.takedown.forget import Change, Forget, new_labels, without_rows
from curation.takedown.receipt import DONE, DUE, Plan
from curation.takedown.resolve import Asked, Found
from curation.takedown.tombstones import DOMAIN, IMAGE, URL, Tombstones, with_key
from spark_jobs.tables import RunKey, Tables, canonical
from spark_jobs.vacuum import find_waste, remove

_OURS = "store:"


def planned(store: Tables, release: str, request: str, now: str, asked: Asked, found: Found) -> Plan:
    """What a takedown must know before it begins."""
    mine = pc.field("image_id").isin(pa.array(found.images, pa.string()))
    places = {
        tuple(row.values())
        for table in ("files", "images", "collections")
        for row in store.table(table, ["shard", "offset_bytes", "size_bytes"], mine).to_pylist()
    }
    tars = sorted(list(place) for place in places if place[0].startswith(_OURS))
    named = {path for table in ("files", "sightings") for path in _paths(store, table, mine)}
    named |= {place[0] for place in places if not place[0].startswith(_OURS)} if not named else set()
    for row in store.table("collections", ["shard"], mine).to_pylist():
        named |= {row["shard"]} if not row["shard"].startswith(_OURS) else set()
    intact = [run.run_id for run in store.last_runs().values() if store.is_intact(run)]
    filesystem, folder = locate(release)
    finish_exchange(filesystem, folder)
    before = None
    if is_release(filesystem, folder):
        reader = ReleaseReader(release)
        rows = reader.index.filter(pc.is_in(reader.index["image_id"], pa.array(found.images, pa.string())))
        held = {row["values"]: row["counts"] for row in rows["shard"].value_counts().to_pylist()}
        shards = [{"name": s.name, "sha256": s.sha256, "images": held[s.name]} for s in touched(reader, found.images)]
        before = {"uri": release, "digest": reader.manifest.digest, "shards": shards}
    return Plan(
        request,
        now,
        asked.plain(),
        list(found.images),
        list(found.urls),
        found.remaining,
        tars,
        sorted(named),
        intact,
        before,
    )


def stones_of(
    stones: Tombstones, asked: Asked, images: Iterable[str], urls: Iterable[str]
) -> Iterator[tuple[str, str]]:
    """(tombstone, kind) of all that is to be kept out."""
    for kind, values in ((IMAGE, images), (URL, urls), (DOMAIN, asked.domains)):
        yield from ((stones.of(kind, value), kind) for value in values)


def complete(store: Tables, plan: Plan, dry_run: bool = False) -> dict[str, Any]:
    """Do all that a plan asks for and is not done yet, and tell of it as a receipt does."""
    state = DUE if dry_run else DONE
    if not dry_run:
        stones = _keep_out(store, plan)
        _forget(store, Forget(tuple(plan.images), tuple(plan.urls), stones, plan.request), plan)
        manifest = _release(store, plan)
        _restate(store, plan, manifest)
        _purge(store, plan)
    shards, kept = _shards(plan)
    return {
        "request": plan.request,
        "requested_at": plan.requested_at,
        "asked": plan.asked,
        "images": plan.images,
        "urls": len(plan.urls),
        "release": plan.release and plan.release["uri"],
        "shards": shards,
        "shards_kept": kept,
        "near_duplicates_remaining": plan.remaining,
        "places": [{"place": p, "what": w, "state": s} for p, w, s in _places(plan, state)],
    }


def _keep_out(store: Tables, plan: Plan) -> Tombstones:
    run, known = RunKey("takedown", plan.request, {}, {}), with_key(store)
    asked = Asked(domains=tuple(plan.asked["domains"]))
    if not store.has_added(schema.TAKEDOWNS, run):
        rows = [
            {"tombstone": stone, "kind": kind, "request": plan.request, "requested_at": plan.requested_at}
            for stone, kind in stones_of(known, asked, plan.images, plan.urls)
            if stone not in known.requests
        ]
        store.append(schema.TAKEDOWNS, pa.Table.from_pylist(rows, schema.TAKEDOWNS.schema), run, {})
    return with_key(store)


def _forget(store: Tables, forget: Forget, plan: Plan) -> None:
    """Out of the store's tars, index shards and tables."""
    for shard, offset, size in plan.tars:
        erase_image(store, shard, offset, size)
    images, urls = pa.array(plan.images, pa.string()), pa.array(plan.urls, pa.string())
    for path in pieces_that_name(store, "shards", urls):
        locate(store.uri)[0].rm(path)
    for live in plans.plans(store):
        if _names_any(store, live, images):
            plans.remove_plan(store, live.key)
    tiles = store.table("tiles", ["collection", "shard"])
    elsewhere = pc.fill_null(pc.match_substring(tiles["collection"], "@"), False)  # another store's
    held = sorted(set(tiles.filter(pc.invert(elsewhere))["shard"].to_pylist()))
    counts = {(shard, number): rows for shard in held for number, rows in forget_in_index(store, shard, images).items()}

    def recounted(rows: pa.Table) -> pa.Table:
        return without_rows(rows, counts)

    store.rewrite("tiles", Change(tuple(schema.TILES.schema.names), lambda rows: recounted(rows) != rows, recounted))
    labels = new_labels(store.table("components", ["image_id", "component"]), plan.images)
    for name in table_names(store):
        if (change := forget.change(name, labels)) is not None:
            store.rewrite(name, change)
    again = plan.release["shards"] if plan.release is not None else []
    numbers = pa.array([int(shard["name"].partition(".")[0]) for shard in again], pa.int32())

    def made_anew(rows: pa.Table) -> pa.Table:
        return rows.filter(pc.invert(pc.is_in(rows["number"], numbers)))

    store.rewrite("release_shards", Change(("number",), lambda rows: made_anew(rows) != rows, made_anew))


def _names_any(store: Store, plan: plans.Plan, images: pa.Array) -> bool:
    return any(pc.any(pc.is_in(plans.unit_ids(store, plan.key, unit.name), images)).as_py() for unit in plan.units)


def _release(store: Tables, plan: Plan) -> Manifest | None:
    """Put a release without the images in the place of the one that has them."""
    if plan.release is None:
        return None
    filesystem, place = locate(plan.release["uri"])
    finish_exchange(filesystem, place)
    reader = ReleaseReader(plan.release["uri"])
    manifest = reader.manifest
    if touched(reader, plan.images):
        partial = partial_folder(place)
        if filesystem.exists(partial):
            filesystem.rm(partial, recursive=True)
        filesystem.makedirs(partial)
        uri = filesystem.unstrip_protocol(partial)
        index, shards = remove_images(reader, uri, plan.images)
        counts = store.counts(pc.field("run_id").isin([run.run_id for run in manifest.runs.values()]))
        runs = {stage: _restated_run(store, plan, stage, manifest.runs[stage], counts) for stage in manifest.stages}
        safety = safety_of(reader, index, store.highest_nsfw(index["image_id"]))
        name = manifest.recipe.get("publish", {}).get("name", "release")
        write_release_files(
            uri, index, shards, manifest.num_shards, runs, manifest.recipe, manifest.models, safety, name
        )
        put_in_place(filesystem, partial, place)
    return ReleaseReader(plan.release["uri"]).manifest


def _restated_run(
    store: Tables, plan: Plan, stage: str, stated: Stage, counts: dict[str, tuple[int, dict[str, int]]]
) -> Run:
    kept, dropped = counts.get(stated.run_id, (stated.kept, stated.dropped))
    tables = _versions(store, stated.tables) if stated.run_id in plan.intact else stated.tables
    return Run(stage, stated.run_id, {}, stated.inputs, tables, kept + sum(dropped.values()), kept, dropped, {})


def _restate(store: Tables, plan: Plan, manifest: Manifest | None) -> None:
    """Let the runs tell of the tables as they are now."""
    counts = store.counts(pc.field("run_id").isin(store.table("runs", ["run_id"])["run_id"].combine_chunks()))

    def restated(row: dict[str, Any]) -> dict[str, Any]:
        if row["run_id"] in counts:
            kept, dropped = counts[row["run_id"]]
            row = row | {"rows_in": kept + sum(dropped.values()), "kept": kept, "dropped": canonical(dropped)}
        if row["run_id"] in plan.intact:
            row = row | {"tables": canonical(_versions(store, json.loads(row["tables"])))}
        if manifest is not None and row["run_id"] == manifest.runs["publish"].run_id:
            blurred = manifest.safety.model_dump()["blurred"]
            told = {"shards": len(manifest.shards), "bytes": manifest.image_bytes, "blurred": blurred}
            told |= {"merkle_root": manifest.merkle_root}
            row = row | {"metrics": canonical(json.loads(row["metrics"]) | told)}
        return row

    store.restate_runs(restated)


def _versions(store: Tables, tables: dict[str, int]) -> dict[str, int]:
    return {name: store.version_of(name) for name in tables}


def _purge(store: Tables, plan: Plan) -> None:
    """Earlier versions of the tables, and all that killed and past runs have left."""
    remove(store, find_waste(store))
    parts = frozenset(live.part(unit) for live in plans.plans(store) for unit in live.units)
    for name in table_names(store):
        store.purge(name, parts)
    remove(store, find_waste(store))  # tars that only an earlier version named
    if plan.release is not None:
        filesystem, place = locate(plan.release["uri"])
        for leftover in (partial_folder(place), replaced_folder(place)):
            if filesystem.exists(leftover):
                filesystem.rm(leftover, recursive=True)


def table_names(store: Store) -> list[str]:
    """Every table that the store has."""
    filesystem, root = locate(store.path("tables"))
    return sorted(path.rstrip("/").rpartition("/")[2] for path in filesystem.ls(root, detail=False))


def _paths(store: Store, table: str, mine: pc.Expression) -> list[str]:
    return store.table(table, ["path"], mine)["path"].drop_null().unique().to_pylist()


def _shards(plan: Plan) -> tuple[list[dict[str, Any]], int]:
    if plan.release is None:
        return [], 0
    now = {shard.name: shard.sha256 for shard in ReleaseReader(plan.release["uri"]).manifest.shards}
    changed = [
        {"name": s["name"], "images": s["images"], "old_sha256": s["sha256"], "new_sha256": now.get(s["name"])}
        for s in plan.release["shards"]
    ]
    return changed, len(now.keys() - {s["name"] for s in plan.release["shards"]})


def _places(plan: Plan, state: str) -> Iterator[tuple[str, str, str]]:
    """(place, what becomes of it, whether that is done) of every place that has, or may have, an image."""
    yield "tables", "rows removed; in the ledger, names replaced by keyed hashes", state
    yield "embeddings", "vectors removed", state
    yield "indexes", "vectors removed from the shards of the join; those of searches are gone when a run ends", state
    yield "tars of the store", f"{len(plan.tars):,} copies overwritten, and the records of their URLs", state
    yield "earlier versions of tables", "files removed, with the tars that only they named", state
    yield "scratch, work, half-written files", "removed where they are no running plan's", state
    if plan.release is not None:
        yield plan.release["uri"], f"{len(plan.release['shards']):,} shards written again", state
    for source in plan.sources:
        yield source, "your own file: remove it there; it is refused when it is indexed again", DUE
    yield "copies of earlier releases", "those that were handed out, and backups, cannot be reached from here", DUE
    yield "logs, reports and audits", "they may name a URL or show a thumbnail; make them anew", DUE
    yield "what was trained or fitted", "features, centroids and projections are of all images together", DUE
