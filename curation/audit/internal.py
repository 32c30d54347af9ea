"""The checks that read the store a release was made from.

They follow the runs that the manifest names: the store may have moved on, and a table that a newer run has written
is no evidence about this release. Takedowns and evaluation sets are read as they are now, since those are the ones
that count.
"""

import json
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.audit.report import MAX_FINDINGS, Check, Status, judged, missing
from curation.release.manifest import Manifest
from curation.schema import DROP, KEEP, STAGES
from curation.store import Store
from curation.takedown.tombstones import tombstones

NAMES = ("ledger", "lineage", "decisions", "provenance", "rights", "contamination", "takedown")
_OF_FILES = ("extract_links", "download", "index")  # these decide on URLs and files, a later stage on images
_LEVELS = (0.45, 0.6, 0.75)


def internal_checks(store: Store, manifest: Manifest, released: pa.Array) -> list[Check]:
    """Lineage, ledger, provenance, rights, contamination and takedown of the released image ids.

    Raises:
        ValueError: there is no store.
    """
    if not store.runs():
        raise ValueError(f"{store.uri}: no stage has run there; name the folder that holds tables/")
    mine = pc.field("image_id").isin(released)
    sightings = store.table("sightings", ["image_id", "url", "rights"], mine)
    unseen = moved_on(store, manifest, "index")
    unknown, from_pool = None, released
    if takes_sets_as_they_are(manifest) and not (unknown := moved_on(store, manifest, "retrieve")):
        own = store.table("own_images", ["image_id"], pc.field("reason").is_null())
        from_pool = _without(released, own["image_id"])
    return [
        _ledger(store, manifest),
        _lineage(store, manifest),
        missing("decisions", unknown) if unknown else _decisions(store, manifest, released, from_pool),
        missing("provenance", unseen or unknown or "")
        if unseen or unknown
        else _provenance(sightings, released, from_pool),
        missing("rights", unseen) if unseen else _rights(sightings, manifest, released),
        _contamination(store, manifest, released),
        _takedown(store, sightings, released, unseen),
    ]


def without_store() -> list[Check]:
    """The same checks where there is no store to read."""
    return [missing(name, "needs the store; pass --store") for name in NAMES]


def takes_sets_as_they_are(manifest: Manifest) -> bool:
    """Whether the release holds sets' own images, which no stage before ``retrieve`` has seen."""
    section = manifest.recipe.get("retrieve")
    sets = section.get("sets") if isinstance(section, dict) else None
    return isinstance(sets, dict) and any(isinstance(s, dict) and s.get("method") == "as_is" for s in sets.values())


def moved_on(store: Store, manifest: Manifest, *stages: str) -> str | None:
    """Why the tables of these stages are no evidence about the release; None where they are what it rests on."""
    last = store.last_runs()
    for stage in stages:
        if stage not in manifest.runs:
            return f"the manifest names no run of {stage}"
        named = manifest.runs[stage].run_id
        if stage not in last or last[stage].run_id != named:
            newest = last[stage].run_id if stage in last else "none"
            return f"the store has moved on: the release rests on run {named} of {stage}, its tables on {newest}"
    return None


def _ledger(store: Store, manifest: Manifest) -> Check:
    """The ledger's rows of each run add up to what the manifest says of it."""
    ids = [run.run_id for run in manifest.runs.values()]
    if not ids:
        return missing("ledger", "the manifest names no run")
    rows = store.table("decisions", ["run_id", "decision", "reason"], pc.field("run_id").isin(ids))
    counts = rows.group_by(["run_id", "decision", "reason"]).aggregate([([], "count_all")]).to_pylist()
    offences = []
    for stage, run in manifest.runs.items():
        found: dict[tuple[str, str | None], int] = {
            (r["decision"], r["reason"]): r["count_all"] for r in counts if r["run_id"] == run.run_id
        }
        stated: dict[tuple[str, str | None], int] = {(DROP, reason): count for reason, count in run.dropped.items()}
        stated[(KEEP, None)] = run.kept
        for decision, reason in sorted(found.keys() | stated.keys(), key=str):
            a, b = found.get((decision, reason), 0), stated.get((decision, reason), 0)
            if a != b:
                offences.append(f"{stage}: the ledger has {a} rows of {decision} {reason or ''}; the manifest says {b}")
    return judged("ledger", f"{rows.num_rows} decisions agree with the manifest's counts", offences)


def _lineage(store: Store, manifest: Manifest) -> Check:
    """Each run of the manifest is in the store as stated, with the recipe stated, on the runs stated."""
    rows = {row["run_id"]: row for row in store.table("runs").sort_by("sequence").to_pylist()}
    offences = []
    for stage, run in manifest.runs.items():
        row = rows.get(run.run_id)
        if row is None or row["stage"] != stage:
            offences.append(f"{stage}: the store has no run {run.run_id}")
            continue
        if json.loads(row["inputs"]) != run.inputs:
            offences.append(f"{stage}: its inputs are not those of the store's run {run.run_id}")
        # publish writes the manifest before its own commit, so the versions it names are some of those recorded
        if not run.tables.items() <= json.loads(row["tables"]).items():
            offences.append(f"{stage}: its table versions are not those of the store's run {run.run_id}")
        if json.loads(row["recipe"]) != manifest.recipe.get(stage, {}):
            offences.append(f"{stage}: its recipe is not that of the store's run {run.run_id}")
        # else the images of a release could be exchanged, and its index and manifest written to match
        if stage == "publish" and json.loads(row["metrics"]).get("merkle_root") != manifest.merkle_root:
            offences.append(f"publish: the store's run {run.run_id} wrote a release with another Merkle root")
        for upstream, run_id in run.inputs.items():
            if upstream in STAGES and (upstream not in manifest.runs or manifest.runs[upstream].run_id != run_id):
                offences.append(f"{stage}: reads run {run_id} of {upstream}, which the release does not rest on")
    for before, stage in zip(manifest.stages, manifest.stages[1:], strict=False):
        if before not in manifest.runs[stage].inputs:
            offences.append(f"{stage}: does not say that it read {before}")
    if absent := [stage for stage in STAGES if stage not in manifest.runs]:
        if not offences:
            return missing("lineage", f"the manifest names no run of {', '.join(absent)}")
        offences.append(f"the manifest names no run of {', '.join(absent)}")
    return judged("lineage", f"{len(manifest.runs)} runs are the store's, and each reads the one before", offences)


def _decisions(store: Store, manifest: Manifest, released: pa.Array, from_pool: pa.Array) -> Check:
    """Every released image was kept by every stage that decides on images, and dropped by none.

    Of sets taken as they are, stages before ``retrieve`` decide on nothing, whatever they say of an image of the
    pool with the same bytes.
    """
    offences: list[str] = []
    everything = released
    for stage in STAGES[STAGES.index("index") :]:
        if stage not in manifest.runs:
            continue
        released = from_pool if STAGES.index(stage) < STAGES.index("retrieve") else everything
        run = pc.field("run_id") == manifest.runs[stage].run_id
        rows = store.table("decisions", ["image_id"], run & (pc.field("decision") == KEEP))
        offences += [f"{i}: {stage} did not keep it" for i in _few(_without(released, rows["image_id"]))]
        if stage not in _OF_FILES:  # a second file with the same bytes is dropped, and its image is not
            rows = store.table("decisions", ["image_id"], run & (pc.field("decision") == DROP))
            offences += [f"{i}: {stage} dropped it" for i in _few(_within(released, rows["image_id"]))]
    absent = [stage for stage in STAGES[STAGES.index("index") :] if stage not in manifest.runs]
    if absent and not offences:
        return missing("decisions", f"the manifest names no run of {', '.join(absent)}")
    return judged(
        "decisions", f"{len(everything)} released images were kept by every stage and dropped by none", offences
    )


def _provenance(sightings: pa.Table, released: pa.Array, from_pool: pa.Array) -> Check:
    unseen = _without(from_pool, sightings["image_id"])  # the sets' own images came from the sets' files
    offences = [f"{i}: no sighting" for i in _few(unseen)]
    measured = {"images": len(released), "sightings": sightings.num_rows, "without_sighting": len(unseen)}
    return judged("provenance", "every released image has a URL or a file it came from", offences, measured)


def _rights(sightings: pa.Table, manifest: Manifest, released: pa.Array) -> Check:
    """Signals as observed. That none was seen is not a permission, hence WARN rather than PASS."""
    section = manifest.recipe.get("extract_links")
    refused = section.get("opt_out_signals") if isinstance(section, dict) else None
    opt_outs = {"noai", "noimageai", *(refused or [])}
    signals: dict[str, set[str]] = {}
    for row in sightings.select(["image_id", "rights"]).to_pylist():
        signals.setdefault(row["image_id"], set()).update(row["rights"] or [])
    opted_out = {
        image_id: found
        for image_id, all_found in signals.items()
        if (found := {signal for signal in all_found if signal.rpartition(":")[2] in opt_outs})
    }
    known = sum(bool(found) for found in signals.values())
    unknown = len(released) - known
    measured = {"images": len(released), "opted_out": len(opted_out), "unknown": unknown}
    share = f"{100 * unknown / max(len(released), 1):.0f} % of images without any signal: their rights are unknown"
    offences = [f"{image_id}: {', '.join(sorted(found))}" for image_id, found in opted_out.items()]
    check = judged("rights", f"{len(opted_out)} opted out; {share}", offences, measured)
    return check if offences or not unknown else check.model_copy(update={"status": Status.WARN})


def _contamination(store: Store, manifest: Manifest, released: pa.Array) -> Check:
    """No released image is one of the evaluation sets', or as similar to one as the recipe forbids."""
    section = manifest.recipe.get("dedup")
    dedup = section if isinstance(section, dict) else {}
    against, threshold = sorted(dedup.get("against") or []), dedup.get("reference_threshold")
    own = {name: (dedup.get("references") or {}).get(name, {}).get("threshold") for name in against}
    if not against:
        return missing("contamination", "the recipe names no evaluation set (dedup.against)")
    if threshold is None:
        return missing("contamination", "the recipe states no dedup.reference_threshold")
    thresholds = {name: float(threshold if given is None else given) for name, given in own.items()}
    collections = store.table("collections", filter=pc.field("collection").isin(against))
    unmeasured = moved_on(store, manifest, "embed", "dedup")
    measured_by = {} if unmeasured else store.last_runs()["dedup"].metrics
    # how edges name a set: one that is another store's pool, with that store's id
    named = measured_by.get("collections", {name: name for name in against})
    set_of = {within: name for name, within in named.items()}
    elsewhere = {name for within, name in set_of.items() if within != name}
    present = elsewhere.union(collections["collection"].to_pylist())
    if absent := [name for name in against if name not in present]:
        return missing("contamination", f"the store does not hold the set {', '.join(absent)}")
    exact = set(_within(released, collections["image_id"]).to_pylist())
    if unmeasured and not exact:
        return missing("contamination", f"no exact copy; similar ones are not known, as {unmeasured}")
    # the table keeps what joins of other models, and against images that have left a set, have found
    mine = (
        (pc.field("index") == str(measured_by.get("index")))
        & pc.field("collection").isin(sorted(set_of))
        & pc.field("lower_id").isin(released)
    )
    edges = store.table("edges", filter=mine)
    others = store.table("references", ["image_id"])  # of the other stores, as of the run
    there = pa.chunked_array([*collections["image_id"].chunks, *others["image_id"].chunks], pa.string())
    edges = edges.filter(pc.is_in(edges["higher_id"], _set(there)))
    names = pa.array([set_of[within] for within in edges["collection"].to_pylist()], pa.string())
    edges = edges.set_column(edges.schema.get_field_index("collection"), "collection", names)
    limits = pa.array([np.float32(thresholds[name]) for name in names.to_pylist()], pa.float32())
    forbidden = edges.filter(pc.greater(edges["similarity"], limits))
    offences = [
        f"{row['image_id']}: is {row['path']} of {row['collection']}"
        for row in collections.to_pylist()
        if row["image_id"] in exact
    ]
    offences += [
        f"{row['lower_id']}: similarity {row['similarity']:.3f} to {row['higher_id']} of {row['collection']}"
        for row in forbidden.to_pylist()
    ]
    measured = {"evaluation_images": collections.num_rows, "exact": len(exact)}
    # pairs below the recipe's threshold were never stored: to count them would be to count nothing
    for level in () if unmeasured else (level for level in _LEVELS if level >= max(thresholds.values())):
        measured[f"pairs_from_{level}"] = pc.sum(pc.greater_equal(edges["similarity"], level)).as_py() or 0
    similar = "unknown" if unmeasured else forbidden.num_rows
    summary = f"{len(exact)} exact and {similar} similar pairs with {', '.join(against)} by {dedup.get('model')}"
    return judged("contamination", summary, offences, measured)


def _takedown(store: Store, sightings: pa.Table, released: pa.Array, unseen: str | None) -> Check:
    """No image that was taken down in this store, by id, URL or domain, is released."""
    try:
        stones = tombstones(store)
    except ValueError as error:
        return missing("takedown", str(error))
    if stones is None:
        none = "nothing was taken down in this store (table takedowns)"
        return judged("takedown", none, [], {"requests": 0, "released": 0})
    found = {image_id: request for image_id in released.to_pylist() if (request := stones.of_image(image_id))}
    for row in sightings.filter(pc.is_valid(sightings["url"])).to_pylist():
        if request := stones.of_url(row["url"]):
            found[row["image_id"]] = request
    offences = [f"{image_id}: was taken down by request {request}" for image_id, request in found.items()]
    if unseen and not found:
        return missing("takedown", f"no image is named by its id; by URL it is not known, as {unseen}")
    num_requests = len(set(stones.requests.values()))
    summary = f"{num_requests} requests; {len(found)} of their images are in the release"
    return judged("takedown", summary, offences, {"requests": num_requests, "released": len(found)})


def _within(ids: pa.Array, other: pa.ChunkedArray) -> pa.Array:
    return ids.filter(pc.is_in(ids, _set(other)))


def _without(ids: pa.Array, other: pa.ChunkedArray) -> pa.Array:
    return ids.filter(pc.invert(pc.is_in(ids, _set(other))))


def _set(values: pa.ChunkedArray) -> pa.Array:
    return values.drop_null().combine_chunks()


def _few(ids: pa.Array) -> Iterable[str]:
    return ids.slice(0, MAX_FINDINGS).to_pylist()
