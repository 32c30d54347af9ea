"""Judges a release from its files alone: every byte of every shard is accounted for by the index and the manifest."""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any

import pyarrow as pa

from curation.images.decode import DecodeError, decode
from curation.release import merkle
from curation.release.canonical import canonical_json
from curation.release.making import Hashing
from curation.release.manifest import INDEX, INDEX_SCHEMA, MANIFEST, Manifest, Shard, leaves, manifest_bytes
from curation.release.reader import ReleaseReader
from curation.release.shards import DamagedShardError, Entry, read_entries


@dataclass(frozen=True)
class Problem:
    """One thing that is not as the release says; ``check`` is manifest, file, index, merkle, shard or image."""

    check: str
    message: str
    shard: str | None = None
    member: str | None = None

    def __str__(self) -> str:
        place = ": ".join(part for part in (self.shard, self.member) if part)
        return f"{place}: {self.message}" if place else self.message


def verify(uri: str, workers: int = 1) -> Iterator[Problem]:
    """Check a release and yield what is wrong, in release order; nothing for a sound one.

    Within a shard only the first problem is named, with its member, since whatever follows it is noise. Shards are
    read once, ``workers`` at a time.

    Raises:
        ValueError: there is no such folder.
        OSError: a file cannot be read.
    """
    release = ReleaseReader(uri)
    names = set(release.names())
    try:
        manifest = release.manifest
    except ValueError as error:
        yield Problem("manifest", str(error))
        return
    yield from _check_manifest(manifest, release.read_file(MANIFEST))
    for extra in sorted(name for name in names - {s.name for s in manifest.shards} if name.endswith(".tar")):
        yield Problem("file", "is not in the manifest", extra)
    for file in manifest.files:
        if file.name not in names:
            yield Problem("file", f"{file.name} is missing")
        elif hashlib.sha256(release.read_file(file.name)).hexdigest() != file.sha256:
            yield Problem("file", f"{file.name}: its SHA-256 is not the manifest's")

    try:
        index = release.index if INDEX in names else INDEX_SCHEMA.empty_table()
    except ValueError as error:
        yield Problem("index", str(error))
        return
    yield from _check_index(manifest, index)

    rows = _by_shard(index)
    with ThreadPoolExecutor(workers) as pool:
        jobs = ((release, shard, rows.get(shard.name, [])) for shard in manifest.shards)
        for problem in pool.map(lambda job: _check_shard(*job), jobs):
            if problem:
                yield problem


def _check_manifest(manifest: Manifest, data: bytes) -> Iterator[Problem]:
    if manifest.computed_digest() != manifest.digest or manifest_bytes(manifest) != data:
        yield Problem("manifest", f"{MANIFEST} was edited: its digest is not that of its content")
    names = [shard.name for shard in manifest.shards]
    if names != sorted(set(names)):
        yield Problem("manifest", f"{MANIFEST} names a shard twice or out of order")
    if (total := sum(shard.images for shard in manifest.shards)) != manifest.images:
        yield Problem("manifest", f"{MANIFEST} says {manifest.images} images; its shards say {total}")
    if INDEX not in {file.name for file in manifest.files}:
        yield Problem("manifest", f"{MANIFEST} does not name {INDEX}")


def _check_index(manifest: Manifest, index: pa.Table) -> Iterator[Problem]:
    if len(index) != manifest.images:
        yield Problem("index", f"{INDEX} has {len(index)} rows; the manifest says {manifest.images} images")
    if (total := sum(index["size_bytes"].to_pylist())) != manifest.image_bytes:
        yield Problem("index", f"{INDEX} adds up to {total} bytes; the manifest says {manifest.image_bytes}")
    seen: set[str] = set()
    for image_id, shard, member in zip(*(index[c].to_pylist() for c in ("image_id", "shard", "member")), strict=True):
        if image_id in seen:
            yield Problem("index", f"image {image_id} comes twice", shard, member)
            break
        seen.add(image_id)
    places = list(zip(index["shard"].to_pylist(), index["offset_bytes"].to_pylist(), strict=True))
    if places != sorted(places):
        yield Problem("index", f"{INDEX} is not in release order")
    known = {shard.name for shard in manifest.shards}
    for name in sorted({shard for shard, _ in places} - known):
        yield Problem("index", "named in the index but not in the manifest", name)
    yield from _check_blurred(manifest, [regions for regions in index["blurred"].to_pylist() if regions])
    if merkle.root(leaves(index)).hex() != manifest.merkle_root:
        yield Problem("merkle", f"the Merkle root of {INDEX} is not the manifest's")


def _check_blurred(manifest: Manifest, regions: Sequence[int]) -> Iterator[Problem]:
    """``regions``: how many each blurred image of the index has."""
    stated = manifest.safety.blurred
    counted, said = (len(regions), sum(regions)), (stated.images, stated.regions) if stated else (0, 0)
    if min(regions, default=0) < 0 or counted != said:
        places = f"{counted[1]} blurred regions in {counted[0]} images"
        yield Problem("index", f"{INDEX} has {places}; the manifest says {said[1]} in {said[0]}")


def _by_shard(index: pa.Table) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in chain.from_iterable(batch.to_pylist() for batch in index.to_batches()):
        rows.setdefault(row["shard"], []).append(row)
    return rows


def _check_shard(release: ReleaseReader, shard: Shard, rows: Sequence[Mapping[str, Any]]) -> Problem | None:
    """The first problem of one shard, if any."""
    if not release.exists(shard.name):
        return Problem("shard", "is missing", shard.name)
    size_bytes = release.size_bytes(shard.name)
    with release.open(shard.name) as raw:
        file = Hashing(raw)
        entries = read_entries(file, size_bytes)
        for row in chain(rows, repeat(None)):
            try:
                image, text = next(entries, None), next(entries, None)
            except DamagedShardError as error:
                return Problem("shard", str(error), shard.name, error.member or (row["member"] if row else None))
            if row is None and image is None:
                break
            if problem := _check_sample(row, image, text):
                return Problem("image", problem[1], shard.name, problem[0])
    if size_bytes != shard.size_bytes:
        return Problem("shard", f"is {size_bytes} bytes; the manifest says {shard.size_bytes}", shard.name)
    if file.digest.hexdigest() != shard.sha256:
        return Problem(
            "shard", "its SHA-256 is not the manifest's, though every member agrees with the index", shard.name
        )
    if len(rows) != shard.images:
        return Problem("shard", f"holds {len(rows)} images; the manifest says {shard.images}", shard.name)
    return None


def _check_sample(row: Mapping[str, Any] | None, image: Entry | None, text: Entry | None) -> tuple[str, str] | None:
    """(member, message) of the first thing that does not fit between an index row and the two members."""
    if image is None:
        assert row is not None
        return row["member"], "is in the index but not in the shard"
    if row is None:
        return image.name, "is in the shard but not in the index"
    if image.name != row["member"]:
        return image.name, f"stands where the index has {row['member']}"
    if (image.offset_bytes, len(image.data)) != (row["offset_bytes"], row["size_bytes"]):
        return image.name, (
            f"lies at byte {image.offset_bytes} with {len(image.data)} bytes; "
            f"the index says byte {row['offset_bytes']} with {row['size_bytes']}"
        )
    sha256 = hashlib.sha256(image.data).hexdigest()
    image_id = image.name.partition(".")[0]
    if row["image_id"] != image_id:
        return image.name, f"the index names it {row['image_id']}"
    if not row["blurred"] and sha256[:32] != image_id:
        return image.name, f"its bytes hash to {sha256[:32]}, which is not its id"
    if row["blurred"] and sha256[:32] == image_id:
        return image.name, "is marked as blurred, but its bytes are those that were curated"
    if sha256 != row["sha256"]:
        return image.name, "its SHA-256 is not the index's"
    if trouble := _undecodable(image.data):
        return image.name, f"does not decode: {trouble}"
    if text is None or text.name != f"{image_id}.json":
        return image.name, f"is not followed by {image_id}.json"
    if hashlib.sha256(text.data).hexdigest() != row["metadata_sha256"]:
        return text.name, "its SHA-256 is not the index's"
    try:
        metadata = json.loads(text.data)
        if canonical_json(metadata) != text.data:
            return text.name, "is not canonical JSON"
    except (ValueError, RecursionError) as error:
        return text.name, f"is not JSON: {error}"
    regions = metadata.get("blurred") if isinstance(metadata, dict) else None
    if not isinstance(regions, list) or len(regions) != row["blurred"]:
        return text.name, f"does not list the {row['blurred']} blurred regions that the index counts"
    return None


def _undecodable(data: bytes) -> str | None:
    try:
        decode(data, max_pixels=sys.maxsize)  # its size was the recipe's to judge
    except DecodeError as error:
        return f"{error.reason}: {error}"
    return None
