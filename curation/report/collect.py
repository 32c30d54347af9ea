"""A store as plain data: what every stage counted, what it dropped and on what evidence, and where the bytes lie."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow.compute as pc

from curation.release.manifest import Manifest
from curation.release.reader import ReleaseReader
from curation.schema import DROP, STAGES
from curation.store import Run, Store

UNITS = {
    "extract_links": "image URLs, and files or records that could not be read",
    "download": "image URLs",
    "index": "files",
}
IMAGE = "images"  # the unit of every stage that UNITS does not name
# What a stage leaves out because it was not asked for, rather than because something is wrong with it.
SELECTION_STAGES = ("cluster", "retrieve", "publish")


@dataclass(frozen=True)
class Drop:
    """One row of the ledger that dropped something."""

    stage: str
    reason: str
    image_id: str | None
    url: str | None
    score: float | None
    threshold: float | None
    evidence: str | None
    model: str | None


@dataclass(frozen=True)
class Member:
    """An image of a component; ``similarity`` is to its witness."""

    image_id: str
    witness: str
    similarity: float
    is_representative: bool


@dataclass
class Collected:
    """Everything the report says about a store and its release."""

    name: str
    runs: dict[str, Run]
    drops: list[Drop]
    components: list[list[Member]]  # largest first, the representative first within one
    selection: list[dict[str, Any]]
    released: list[dict[str, Any]]  # rows of the release's index
    manifest: Manifest | None
    release_problem: str | None
    num_sightings: int
    domains: list[tuple[str, int]]  # registrable domain -> sightings, most first
    origins: dict[str, list[str]] = field(repr=False)  # image_id -> URLs or paths it was met at
    collections: dict[str, list[str]] = field(repr=False)  # image_id -> names of the sets that hold it

    @cached_property
    def finished(self) -> list[Run]:
        """The current runs in the order of the pipeline."""
        return [self.runs[stage] for stage in STAGES if stage in self.runs]

    def dropped_by(self, stage: str) -> dict[str, list[Drop]]:
        """Reason -> the stage's drops, most frequent reason first."""
        groups: dict[str, list[Drop]] = {}
        for drop in self.drops:
            if drop.stage == stage:
                groups.setdefault(drop.reason, []).append(drop)
        return dict(sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])))


def collect(store: Store, release: str | None) -> Collected:
    """Read a store and its release.

    Args:
        store: may be empty or half-way through its stages.
        release: folder of the release; one that is missing or unfinished is named in ``release_problem``.
    """
    decisions = store.decisions().filter(pc.field("decision") == DROP)
    keys = ("stage", "image_id", "url")
    ordered = decisions.sort_by([(key, "ascending") for key in keys]).to_pylist()
    names = tuple(Drop.__dataclass_fields__)
    sightings = store.table("sightings", columns=["image_id", "url", "path", "domain"]).to_pylist()
    manifest, released, problem = _release(release)
    return Collected(
        name=store.uri.rpartition("/")[2],
        runs=store.runs(),
        drops=[Drop(**{name: row[name] for name in names}) for row in ordered],
        components=_components(store),
        selection=store.table("selection").sort_by([("image_id", "ascending")]).to_pylist(),
        released=released,
        manifest=manifest,
        release_problem=problem,
        num_sightings=len(sightings),
        domains=sorted(Counter(row["domain"] for row in sightings if row["domain"]).items(), key=lambda d: (-d[1], d)),
        origins=_grouped(sightings, lambda row: row["url"] or row["path"]),
        collections=_grouped(store.table("collections").to_pylist(), lambda row: row["collection"]),
    )


class Pictures:
    """The encoded bytes of images by id, from the store or from the release."""

    def __init__(self, store: Store, release: str | None) -> None:
        self._store = store
        self._places = {row["image_id"]: row for row in store.table("images").to_pylist()}
        self._sets = {row["image_id"]: row for row in store.table("collections").to_pylist()}
        self._release = ReleaseReader(release) if release else None

    def read(self, image_id: str) -> bytes | None:
        """As crawled or imported; None where the bytes cannot be had any more."""
        try:
            if (place := self._places.get(image_id) or self._sets.get(image_id)) is not None:
                return self._store.read_image(place["shard"], place["offset_bytes"], place["size_bytes"])
        except (OSError, ValueError):
            return None
        return None

    def read_released(self, image_id: str) -> bytes | None:
        """As released; None where the bytes cannot be had."""
        try:
            return self._release.read(image_id).data if self._release else None
        except (OSError, ValueError):
            return None


def _release(folder: str | None) -> tuple[Manifest | None, list[dict[str, Any]], str | None]:
    if folder is None:
        return None, [], "No release was named."
    reader = ReleaseReader(folder)
    try:
        return reader.manifest, reader.index.to_pylist(), None
    except (OSError, ValueError):
        return (
            None,
            [],
            "There is no finished release: its manifest, which is written last, or its index is missing or damaged.",
        )


def _components(store: Store) -> list[list[Member]]:
    groups: dict[str, list[Member]] = {}
    for row in store.table("components").to_pylist():
        member = Member(row["image_id"], row["witness"], row["similarity"], row["image_id"] == row["representative"])
        groups.setdefault(row["component"], []).append(member)
    for members in groups.values():
        members.sort(key=lambda m: (not m.is_representative, -m.similarity, m.image_id))
    return [members for _, members in sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))]


def _grouped(rows: Sequence[dict[str, Any]], value: Any) -> dict[str, list[str]]:
    groups: dict[str, set[str]] = {}
    for row in rows:
        if (text := value(row)) is not None:
            groups.setdefault(row["image_id"], set()).add(text)
    return {key: sorted(texts) for key, texts in groups.items()}
