"""A release without some of its images: only the shards that hold one are written again."""

import json
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from curation.release.making import link_file, make_shard, pairs
from curation.release.manifest import INDEX_SCHEMA, Shard
from curation.release.reader import ReleaseReader
from curation.release.safety import Safety
from curation.release.shards import read_entries


class Removal(NamedTuple):
    """What is left: the index, and the shards with their digests."""

    index: pa.Table
    shards: list[Shard]


def touched(release: ReleaseReader, images: Collection[str]) -> list[Shard]:
    """The shards that hold some images, as the manifest has them."""
    rows = release.index.filter(pc.is_in(release.index["image_id"], pa.array(list(images), pa.string())))
    names = set(rows["shard"].to_pylist())
    return [shard for shard in release.manifest.shards if shard.name in names]


def safety_of(release: ReleaseReader, index: pa.Table, nsfw_highest: float | None) -> Safety:
    """What the release says of people and unsafe content, for the images of ``index`` alone."""
    safety, regions = release.manifest.safety, [count for count in index["blurred"].to_pylist() if count]
    blurred = safety.blurred and safety.blurred.model_copy(update={"images": len(regions), "regions": sum(regions)})
    nsfw = safety.nsfw and safety.nsfw.model_copy(update={"highest": nsfw_highest})
    return safety.model_copy(update={"blurred": blurred, "nsfw": nsfw})


def remove_images(release: ReleaseReader, folder: str, images: Collection[str]) -> Removal:
    """Put the shards of a release without some images into a folder, the untouched ones as they are.

    The released bytes are copied, so nothing is decoded or blurred again. A shard that would be empty is left out.

    Args:
        release: sound, as far as its touched shards go.
        folder: URI of an empty folder.
        images: ids.

    Raises:
        DamagedShardError: a touched shard is not what a release has.
    """
    gone = set(images)
    names = {shard.name for shard in touched(release, gone)}
    places: dict[str, dict[str, Any]] = {}
    shards = []
    for shard in release.manifest.shards:
        if shard.name not in names:
            link_file(f"{release.uri.rstrip('/')}/{shard.name}", f"{folder}/{shard.name}")
            shards.append(shard)
            continue
        mine = release.index.filter(pc.equal(release.index["shard"], shard.name))["image_id"].to_pylist()
        if gone.issuperset(mine):
            continue
        made = make_shard(folder, shard.name, _remaining(release, shard, gone))
        shards.append(Shard(name=shard.name, size_bytes=made.size_bytes, sha256=made.sha256, images=len(made.members)))
        places |= {member.member.partition(".")[0]: member._asdict() for member in made.members}
    rows = release.index.filter(pc.invert(pc.is_in(release.index["image_id"], pa.array(list(gone), pa.string()))))
    moved = pc.is_in(rows["shard"], pa.array(sorted(names), pa.string()))
    again = [row | places[row["image_id"]] for row in rows.filter(moved).to_pylist()]
    index = pa.concat_tables([rows.filter(pc.invert(moved)), pa.Table.from_pylist(again, INDEX_SCHEMA)])
    return Removal(index, shards)


def _remaining(release: ReleaseReader, shard: Shard, gone: set[str]) -> Iterator[tuple[Any, ...]]:
    with release.open(shard.name) as file:
        for image, text in pairs(read_entries(file, shard.size_bytes)):
            image_id, _, extension = image.name.partition(".")
            if image_id not in gone:
                yield image_id, extension, image.data, json.loads(text.data)
