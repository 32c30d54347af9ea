"""Bounded rows of pictures: what was dropped with its evidence beside it, what was released, the largest groups."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from curation.report.collect import Collected, Drop, Pictures
from curation.report.thumbnails import thumbnail
from curation.report.words import measurement, of_its_group, plain
from curation.schema import STAGES, Reason

PER_REASON = 12
GROUPS, PER_GROUP = 12, 8
COMPONENTS, PER_COMPONENT = 6, 8


@dataclass(frozen=True)
class Picture:
    """A thumbnail with its words."""

    uri: str
    alt: str
    image_id: str
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exhibit:
    """Something that was dropped, the picture that is the evidence, and the facts of the decision."""

    dropped: Picture
    evidence: Picture | None
    facts: tuple[str, ...]


@dataclass(frozen=True)
class Gallery:
    """Some of the images of one stage and reason."""

    stage: str
    reason: str
    total: int
    exhibits: list[Exhibit]
    by_doubt: bool  # the nearest to the threshold first


@dataclass(frozen=True)
class Group:
    """Some of the images that belong together."""

    title: str
    total: int
    pictures: list[Picture]


class Thumbnails:
    """Thumbnails of the images of one run, each drawn once."""

    def __init__(self, found: Collected, pictures: Pictures) -> None:
        self._found = found
        self._pictures = pictures
        self._drawn: dict[tuple[Callable[[str], bytes | None], str], str] = {}

    def of(self, image_id: str, *captions: str) -> Picture:
        """The image as crawled or imported."""
        return self._picture(self._pictures.read, image_id, captions)

    def released(self, image_id: str, *captions: str) -> Picture:
        """The image as released."""
        return self._picture(self._pictures.read_released, image_id, captions)

    def is_image(self, evidence: str | None) -> bool:
        """Whether a piece of evidence names an image."""
        return evidence is not None and re.fullmatch(r"[0-9a-f]{32}", evidence) is not None

    def origin(self, image_id: str) -> str:
        """Where an image was met; the evaluation sets it belongs to where it was met nowhere."""
        met = next(iter(self._found.origins.get(image_id, [])), None)
        return met if met is not None else ", ".join(self._found.collections.get(image_id, []))

    def _picture(self, read: Callable[[str], bytes | None], image_id: str, captions: tuple[str, ...]) -> Picture:
        key = (read, image_id)
        if key not in self._drawn:
            self._drawn[key] = thumbnail(read(image_id))
        origin = self.origin(image_id)
        alt = f"image {image_id[:8]}" + (f" from {origin}" if origin else "")
        return Picture(self._drawn[key], alt, image_id, captions)


def dropped(found: Collected, thumbnails: Thumbnails) -> list[Gallery]:
    """A gallery for every stage and reason that dropped images; those in doubt, near their threshold, come first."""
    galleries = []
    for stage in STAGES:
        for reason, drops in found.dropped_by(stage).items():
            by_doubt = sorted((drop for drop in drops if drop.image_id is not None), key=_margin)
            shown = [exhibit(drop, thumbnails) for drop in by_doubt[:PER_REASON]]
            if shown:
                in_doubt = len(by_doubt) > 1 and _margin(by_doubt[0]) < float("inf")
                galleries.append(Gallery(stage, reason, len(drops), shown, in_doubt))
    return galleries


def _margin(drop: Drop) -> float:
    """How far a drop lies from its threshold; those without one keep their order, behind the others."""
    return float("inf") if drop.score is None or drop.threshold is None else abs(drop.score - drop.threshold)


def exhibit(drop: Drop, thumbnails: Thumbnails) -> Exhibit:
    """A dropped image beside its evidence."""
    assert drop.image_id is not None
    evidence = None
    facts = []
    if drop.score is not None:
        facts.append(measurement(drop.reason, drop.score, drop.threshold))
    elif drop.reason == Reason.EVALUATION_COPY and drop.evidence:
        facts.append(of_its_group(drop.evidence))
    if thumbnails.is_image(drop.evidence) and drop.evidence != drop.image_id:
        held = drop.reason == Reason.EVALUATION_COPY
        origin = thumbnails.origin(str(drop.evidence))
        evidence = thumbnails.of(str(drop.evidence), "evaluation image" if held else "its witness", origin)
    elif drop.evidence == drop.image_id:
        facts.append(f"same bytes as {thumbnails.origin(drop.image_id)}")
    elif drop.evidence:
        facts.append(drop.evidence)
    return Exhibit(
        thumbnails.of(drop.image_id, "dropped", drop.url or thumbnails.origin(drop.image_id)), evidence, tuple(facts)
    )


def released(found: Collected, thumbnails: Thumbnails) -> list[Group]:
    """The release by source and cluster, largest groups first."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in found.released:
        cluster = -1 if row["cluster"] is None else row["cluster"]
        groups.setdefault((row["source"] or "", cluster), []).append(row)
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))[:GROUPS]
    return [
        Group(_title(*key), len(rows), [thumbnails.released(row["image_id"]) for row in _spread(rows)])
        for key, rows in ordered
    ]


def num_groups(found: Collected) -> int:
    """Pairs of source and cluster in the release."""
    return len({(row["source"], row["cluster"]) for row in found.released})


def components(found: Collected, thumbnails: Thumbnails) -> list[Group]:
    """The largest groups of near-duplicates, first those that stay."""
    return [
        Group(
            f"{len(members):,} images",
            len(members),
            [
                thumbnails.of(
                    m.image_id, "stays" if m.is_representative else f"goes, similarity {m.similarity:.3f} to witness"
                )
                for m in members[:PER_COMPONENT]
            ],
        )
        for members in found.components[:COMPONENTS]
    ]


def _spread(rows: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """The first few in the order of their ids: as good as random, and the same every time."""
    return sorted(rows, key=lambda row: str(row["image_id"]))[:PER_GROUP]


def _title(source: str, cluster: int) -> str:
    parts = [plain(source)] if source else []
    return ", ".join([*parts, f"cluster {cluster}"] if cluster >= 0 else parts) or "all images"
