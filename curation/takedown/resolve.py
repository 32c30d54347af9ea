"""From what was asked to what a store holds of it: images, the URLs that led to them, and copies that would remain."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.schema import KEEP, POOL, Reason
from curation.store import Store
from curation.takedown.tombstones import names_of

_URLS = {"links": ("url",), "fetches": ("url", "final_url"), "files": ("url",), "sightings": ("url",)}


@dataclass(frozen=True)
class Asked:
    """A request.

    Attributes:
        ids: of images.
        urls: normalised, or paths of imported files.
        domains: host names; each stands for itself and all below it.
        near: ids whose near-duplicates are meant too.
        threshold: similarity from which two images of the pool are near-duplicates.
        reason: free text, for the receipt.
    """

    ids: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    threshold: float | None = None
    reason: str | None = None

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Found:
    """What a store holds of a request.

    Attributes:
        images: ids that go.
        urls: that led to them, were named, or are in a named domain: they are not asked for again.
        remaining: near-duplicates of the images that nobody named: ``image_id``, ``of``, ``similarity`` (None: the same
            picture by its PCA hash), ``state``.
    """

    images: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    remaining: list[dict[str, Any]] = field(default_factory=list)


def resolve(store: Store, asked: Asked, threshold: float) -> Found:
    """Find what a request means in a store.

    Args:
        store: to be searched.
        asked: the request.
        threshold: of edges that make near-duplicates, unless the request names one.

    Raises:
        ValueError: the store was never joined as low as the request's threshold.
    """
    level = threshold if asked.threshold is None else asked.threshold
    if level < threshold:
        raise ValueError(
            f"--threshold {level}: the store's pairs were looked for above {threshold} (recipe.dedup.threshold) only; "
            "give that or more"
        )
    named = set(asked.urls) | _in_domains(store, asked.domains)
    images = set(asked.ids) | set(asked.near) | _met_at(store, named)
    group = set(asked.near)
    while new := {i for i, *_ in _neighbours(store, group, level)} - group:
        group |= new
    images |= group
    urls = named | _urls_of(store, images)
    # a redirect that led to one of them did so for the image's sake
    urls |= set(_values(store, "fetches", "url", pc.field("final_url").isin(_array(urls))))
    urls = {url for url in urls if "://" in url}  # a path of the user's own is refused by its content
    remaining: dict[str, tuple[str, float | None]] = {}
    for image_id, of, similarity in _neighbours(store, images, level):
        if image_id not in images:
            remaining.setdefault(image_id, (of, similarity))
    states = _states(store, remaining)
    found = [
        {"image_id": i, "of": of, "similarity": similarity, "state": states.get(i, "not decided on")}
        for i, (of, similarity) in sorted(remaining.items())
    ]
    return Found(tuple(sorted(images)), tuple(sorted(urls)), found)


def in_domains(urls: Iterable[str], domains: Iterable[str]) -> set[str]:
    """Those normalised URLs whose host is one of the domains, or below one."""
    wanted = set(domains)
    return {url for url in urls if not wanted.isdisjoint(names_of(url))}


def _in_domains(store: Store, domains: tuple[str, ...]) -> set[str]:
    found: set[str] = set()
    for table, columns in _URLS.items():
        for column in columns:
            for domain in domains:  # few are read whole to be looked at closely
                holds = pc.match_substring(pc.field(column), domain)
                found |= in_domains(_values(store, table, column, holds), domains)
                if column == "final_url":
                    rows = store.table(table, ["url", column], holds).to_pylist()
                    found |= {row["url"] for row in rows if row[column] in found}
    return found


def _met_at(store: Store, places: set[str]) -> set[str]:
    """Ids of the images met at some URLs or paths, directly or behind a redirect."""
    some = _array(places)
    wanted = _array(places | set(_values(store, "fetches", "url", pc.field("final_url").isin(some))))
    met = pc.field("url").isin(wanted) | pc.field("path").isin(wanted)
    return {i for table in ("files", "sightings") for i in _values(store, table, "image_id", met)}


def _urls_of(store: Store, images: set[str]) -> set[str]:
    mine = pc.field("image_id").isin(_array(images))
    return {url for table in ("files", "sightings") for url in _values(store, table, "url", mine)}


def _neighbours(store: Store, images: set[str], threshold: float) -> list[tuple[str, str, float | None]]:
    """(image_id, of, similarity) of every image with an edge to some images, or with their PCA hash; best first."""
    some, runs = _array(images), store.runs()
    ends = pc.field("lower_id").isin(some) | pc.field("higher_id").isin(some)
    above = (pc.field("collection") == POOL) & (pc.field("similarity") > float(np.float32(threshold)))
    if "dedup" in runs:  # edges of other models and lists are kept too
        above &= pc.field("index") == runs["dedup"].metrics["index"]
    edges = store.table("edges", ["lower_id", "higher_id", "similarity"], ends & above)
    found: list[tuple[str, str, float | None]] = []
    for lower, higher, similarity in zip(*(column.to_pylist() for column in edges.columns), strict=True):
        found += [(b, a, similarity) for a, b in ((lower, higher), (higher, lower)) if a in images and b not in images]
    found.sort(key=lambda row: (-(row[2] or 0), row))
    if "screen" in runs:
        copy = (pc.field("run_id") == runs["screen"].run_id) & (pc.field("reason") == Reason.PCA_HASH_DUPLICATE.value)
        either = pc.field("image_id").isin(some) | pc.field("evidence").isin(some)
        for row in store.table("decisions", ["image_id", "evidence"], copy & either).to_pylist():
            ends_of = ((row["image_id"], row["evidence"]), (row["evidence"], row["image_id"]))
            found += [(b, a, None) for a, b in ends_of if a in images and b not in images]
    return found


def _states(store: Store, images: Iterable[str]) -> dict[str, str]:
    """What the last stage that decided on an image said of it."""
    rows = store.decisions().select(["stage", "image_id", "decision", "reason"])
    rows = rows.filter(pc.is_in(rows["image_id"], _array(images)))
    order = list(store.runs())
    last: dict[str, tuple[int, str]] = {}
    for row in rows.to_pylist():
        kept = "released" if row["stage"] == "publish" else f"kept by {row['stage']}"
        said = kept if row["decision"] == KEEP else f"dropped by {row['stage']}: {row['reason']}"
        if row["reason"] == Reason.NEAR_DUPLICATE and row["stage"] == "dedup":
            said += "; decided again when dedup runs again"
        last[row["image_id"]] = max(last.get(row["image_id"], (-1, "")), (order.index(row["stage"]), said))
    return {image_id: said for image_id, (_, said) in last.items()}


def _values(store: Store, table: str, column: str, condition: pc.Expression) -> list[str]:
    return pc.unique(store.table(table, [column], condition)[column]).drop_null().to_pylist()


def _array(values: Iterable[str]) -> pa.Array:
    return pa.array(sorted(values), pa.string())
