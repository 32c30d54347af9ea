"""What a takedown leaves in writing: a plan before anything is touched, and a receipt when all of it is done.

Both lie in ``takedowns/`` of the store. While there is a plan the takedown is not finished, and nothing else may
write to the store. The receipt is the operator's own record: it names what was asked for as it was asked.
"""

import hashlib
import hmac
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from curation.release.canonical import canonical_json
from curation.release.printable import printable
from curation.store import Store, locate
from curation.takedown.resolve import Asked
from curation.takedown.tombstones import FOLDER
from curation.whole_files import put_whole

DONE, DUE = "done", "due"
_PLAN, _RECEIPT = ".plan", ".json"
_SHOWN = 10


@dataclass(frozen=True)
class Plan:
    """All that a takedown needs to know when what it removes is partly gone.

    Attributes:
        request: its name.
        requested_at: ISO 8601, UTC.
        asked: as it was asked.
        images: ids that go.
        urls: that are refused from now on.
        remaining: near-duplicates that nobody named (``curation.takedown.resolve.Found``).
        tars: (shard, offset_bytes, size_bytes) of every copy in the store's own tars.
        sources: where the user's own folders hold one, as the tables name the place.
        intact: ids of the runs whose tables were as they left them.
        release: URI of the release, and digest and shards that hold an image before; None without a release.
    """

    request: str
    requested_at: str
    asked: dict[str, Any]
    images: list[str] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    remaining: list[dict[str, Any]] = field(default_factory=list)
    tars: list[list[Any]] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    intact: list[str] = field(default_factory=list)
    release: dict[str, Any] | None = None


def request_id(key: bytes, asked: Asked) -> str:
    """The name of a request: a keyed hash of what was asked, so that the same command finds its own work again."""
    what = {name: value for name, value in asked.plain().items() if name != "reason"}
    return hmac.digest(key, canonical_json(what), hashlib.sha256).hex()[:16]


def write_plan(store: Store, plan: Plan) -> None:
    """Declare a takedown begun."""
    _put(store, plan.request + _PLAN, asdict(plan))


def unfinished(store: Store) -> Plan | None:
    """The takedown that was begun and not finished, if there is one."""
    filesystem, folder = locate(store.path(FOLDER))
    found = sorted(filesystem.ls(folder, detail=False)) if filesystem.isdir(folder) else []
    for path in found:
        if path.endswith(_PLAN):
            return Plan(**json.loads(filesystem.cat_file(path)))
    return None


def refuse_unfinished(store: Store) -> None:
    """Let nobody write to a store of which a takedown has removed a part.

    Raises:
        ValueError: there is such a takedown.
    """
    plan = unfinished(store)
    if plan is not None:
        raise ValueError(
            f"{store.uri}: takedown {plan.request} was begun and not finished; run python -m spark_jobs.takedown with "
            "this recipe again, which finishes it first"
        )


def read_receipt(store: Store, request: str) -> dict[str, Any] | None:
    """The receipt of a request; None where it is not finished."""
    filesystem, path = locate(store.path(FOLDER, request + _RECEIPT))
    if not filesystem.exists(path):
        return None
    receipt: dict[str, Any] = json.loads(filesystem.cat_file(path))
    return receipt


def write_receipt(store: Store, receipt: dict[str, Any]) -> None:
    """Declare a takedown finished, and forget its plan."""
    _put(store, receipt["request"] + _RECEIPT, receipt)
    filesystem, path = locate(store.path(FOLDER, receipt["request"] + _PLAN))
    if filesystem.exists(path):
        filesystem.rm(path)


def render(receipt: dict[str, Any]) -> str:
    """The receipt as lines for a terminal."""
    asked = ", ".join(f"{key} {value}" for key, value in receipt["asked"].items() if value)
    lines = [f"takedown {receipt['request']} of {receipt['requested_at']}", f"  asked: {asked}"]
    lines += _some("images", receipt["images"])
    lines.append(f"  URLs refused from now on: {receipt['urls']:,}")
    for shard in receipt["shards"]:
        new = f"{shard['new_sha256'][:16]}" if shard["new_sha256"] else "gone, as no image is left"
        new = "to be written again" if shard["new_sha256"] == shard["old_sha256"] else new
        lines.append(f"  {shard['name']}: {shard['images']:,} images less; {shard['old_sha256'][:16]} -> {new}")
    lines.append(f"  shards that keep their digests: {receipt['shards_kept']:,}")
    lines += [f"  {place['state']:<5}{place['place']}: {place['what']}" for place in receipt["places"]]
    left = [
        f"{row['image_id']}  near {row['of'][:12]}, "
        + (f"similarity {row['similarity']:.3f}" if row["similarity"] is not None else "the same by its PCA hash")
        + f"; {row['state']}"
        for row in receipt["near_duplicates_remaining"]
    ]
    lines += _some("near-duplicates that nobody named, and that stay", left)
    return "\n".join(map(printable, lines))


def _some(what: str, rows: list[str]) -> list[str]:
    lines = [f"  {what}: {len(rows):,}", *(f"    {row}" for row in rows[:_SHOWN])]
    return lines + ([f"    ... and {len(rows) - _SHOWN:,} more, in the receipt"] if len(rows) > _SHOWN else [])


def _put(store: Store, name: str, content: dict[str, Any]) -> None:
    filesystem, path = locate(store.path(FOLDER, name))
    put_whole(filesystem, path, json.dumps(content, indent=1).encode() + b"\n")
