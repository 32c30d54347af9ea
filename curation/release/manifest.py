"""The files beside the shards: ``index.parquet``, ``croissant.json``, ``README.md`` and, last, ``manifest.json``.

A release without a manifest is not finished. The manifest holds no time and no path outside the release, so the
same images and recipe give the same bytes.
"""

import hashlib
import io
import json
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from conf import Section
from curation.composition import markdown, of_run
from curation.release import merkle
from curation.release.canonical import canonical_json
from curation.release.card import card
from curation.release.croissant import croissant
from curation.release.safety import Safety
from curation.store import Run, locate
from curation.whole_files import put_whole

FORMAT_VERSION = 3
MANIFEST, INDEX, CROISSANT, CARD = "manifest.json", "index.parquet", "croissant.json", "README.md"

# One row an image, in release order. A row is also a leaf of the Merkle tree, so it holds the full digests.
INDEX_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("member", pa.string(), nullable=False),
        pa.field("offset_bytes", pa.int64(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("metadata_sha256", pa.string(), nullable=False),
        pa.field("blurred", pa.int32(), nullable=False),  # regions; 0: the bytes are those that were curated
        pa.field("source", pa.string()),
        pa.field("cluster", pa.int32()),
    ]
)


class File(Section):
    """A file of the release."""

    name: str
    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Shard(File):
    """A tar and how many images it holds."""

    name: str = Field(pattern=r"^[0-9]{5,}\.tar$")
    images: int = Field(ge=1)


class Stage(Section):
    """The run of a stage that this release rests on."""

    run_id: str
    inputs: dict[str, str]
    tables: dict[str, int]
    rows_in: int = Field(ge=0)
    kept: int = Field(ge=0)
    dropped: dict[str, int]


class Manifest(Section):
    """``manifest.json``. ``digest`` is the SHA-256 of the canonical JSON of everything else: the release's name."""

    format: str = Field(default="openlvd-release", pattern="^openlvd-release$")
    format_version: int = FORMAT_VERSION
    images: int = Field(ge=0)
    image_bytes: int = Field(ge=0)
    num_shards: int = Field(ge=1)  # ranges of the hash order (curation.release.plan); one without images has no tar
    shards: list[Shard]
    files: list[File]
    merkle_root: str = Field(pattern="^[0-9a-f]{64}$")
    stages: list[str]  # in the order they ran
    runs: dict[str, Stage]
    recipe: dict[str, Any]
    models: dict[str, str]
    safety: Safety
    digest: str = ""

    def computed_digest(self) -> str:
        """What ``digest`` must be."""
        return hashlib.sha256(canonical_json(self.model_dump(exclude={"digest"}))).hexdigest()


def write_release_files(
    uri: str,
    index: pa.Table,
    shards: Sequence[Shard],
    num_shards: int,
    runs: Mapping[str, Run],
    recipe: Mapping[str, Any],
    models: Mapping[str, str],
    safety: Safety,
    name: str = "release",
) -> Manifest:
    """Write everything that stands beside the shards; the manifest comes last and marks the release as complete.

    Args:
        uri: folder of the release, where the shards already lie.
        index: columns of ``INDEX_SCHEMA`` in any order; rows in any order.
        shards: what each written tar is.
        num_shards: ranges that the images were dealt to.
        runs: stage to the run this release rests on, in the order of the stages; publish itself included.
        recipe: the whole recipe as plain values.
        models: name of each model that took part to the hash of its weights.
        safety: which detectors looked at the images, and what was blurred.
        name: what the data set is called.

    Raises:
        ValueError: the index and the shards disagree, so the release would fail its own check.
    """
    index = (
        index.select(INDEX_SCHEMA.names)
        .cast(INDEX_SCHEMA)
        .sort_by([("shard", "ascending"), ("offset_bytes", "ascending")])
    )
    shards = sorted(shards, key=lambda shard: shard.name)
    counted = {row["values"]: row["counts"] for row in index["shard"].value_counts().to_pylist()}
    if counted != {shard.name: shard.images for shard in shards}:
        raise ValueError(f"{uri}: the index names other shards or counts than were written; publish again")
    root = merkle.root(leaves(index)).hex()
    funnel = {stage: (run.rows_in, run.kept, run.dropped) for stage, run in runs.items()}
    image_bytes = sum(index["size_bytes"].to_pylist())

    fs, folder = locate(uri)
    fs.makedirs(folder, exist_ok=True)
    index_file = File(name=INDEX, **_put(fs, folder, INDEX, index_bytes(index)))
    sources = index["source"].value_counts().to_pylist()
    statement = safety.statement()
    made_of = of_run(runs["retrieve"], {s["values"]: s["counts"] for s in sources}) if "retrieve" in runs else []
    table = markdown(made_of) if made_of else ""
    extensions = sorted({member.partition(".")[2] for member in index["member"].to_pylist()})
    text = card(name, len(index), image_bytes, len(shards), extensions, root, funnel, sources, table, statement)
    tars = [shard.model_dump() for shard in shards]
    metadata = canonical_json(croissant(name, index_file.sha256, tars, INDEX_SCHEMA, statement))
    manifest = Manifest(
        images=len(index),
        image_bytes=image_bytes,
        num_shards=num_shards,
        shards=list(shards),
        files=[
            index_file,
            File(name=CROISSANT, **_put(fs, folder, CROISSANT, metadata)),
            File(name=CARD, **_put(fs, folder, CARD, text.encode())),
        ],
        merkle_root=root,
        stages=list(runs),
        runs={stage: _stage(run) for stage, run in runs.items()},
        recipe=json.loads(canonical_json(dict(recipe))),  # tuples become lists, as they will when it is read back
        models=dict(models),
        safety=safety,
    )
    manifest = manifest.model_copy(update={"digest": manifest.computed_digest()})
    _put(fs, folder, MANIFEST, manifest_bytes(manifest))
    return manifest


def manifest_bytes(manifest: Manifest) -> bytes:
    """The file's bytes: canonical JSON and a newline."""
    return canonical_json(manifest.model_dump()) + b"\n"


def parse_manifest(data: bytes) -> Manifest:
    """Read ``manifest.json``.

    Raises:
        ValueError: it is not JSON, not of this format, or of another version.
    """
    try:
        values = json.loads(data)
        version = values.get("format_version") if isinstance(values, dict) else None
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise ValueError(f"format version {version} is newer than {FORMAT_VERSION}; use a newer openlvd")
        if isinstance(version, int) and version < FORMAT_VERSION:
            raise ValueError(f"format version {version} is older than {FORMAT_VERSION}; publish again for the current")
        return Manifest.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error


def leaves(index: pa.Table) -> Iterator[bytes]:
    """The canonical JSON of each index row, in order: the leaves of the Merkle tree."""
    for batch in index.to_batches(max_chunksize=65536):
        yield from map(canonical_json, batch.to_pylist())


def parse_index(data: bytes) -> pa.Table:
    """Read ``index.parquet``.

    Raises:
        ValueError: it is not Parquet, has other columns than ``INDEX_SCHEMA``, or a null where none may be.
    """
    try:
        # without threads: one that outlives the read and holds Python's bytes aborts the process as it ends
        index = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"cannot be read: {error}") from error
    if index.schema.names != INDEX_SCHEMA.names or index.schema.types != INDEX_SCHEMA.types:
        raise ValueError(f"has the columns {index.schema.names}, not {INDEX_SCHEMA.names} of their types")
    if holes := [field.name for field in INDEX_SCHEMA if not field.nullable and index[field.name].null_count]:
        raise ValueError(f"has rows without {', '.join(holes)}")
    return index


def index_bytes(index: pa.Table) -> bytes:
    """``index.parquet`` with every writer setting fixed, so that equal rows give equal bytes."""
    buffer = io.BytesIO()
    pq.write_table(
        index.combine_chunks().replace_schema_metadata(None),
        buffer,
        version="2.6",
        data_page_version="1.0",
        row_group_size=1 << 17,
        compression="zstd",
        compression_level=3,
        use_dictionary=["shard", "source", "cluster"],
        write_statistics=True,
    )
    return buffer.getvalue()


def _stage(run: Run) -> Stage:
    return Stage(
        run_id=run.run_id,
        inputs=run.inputs,
        tables=run.tables,
        rows_in=run.rows_in,
        kept=run.kept,
        dropped=run.dropped,
    )


def _put(fs: Any, folder: str, name: str, data: bytes) -> dict[str, Any]:
    put_whole(fs, posixpath.join(folder, name), data)
    return {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
