"""What is to be embedded, as files: one list of images a unit of work, one Parquet file of a table for each when done.

A plan is a folder ``work/<key>`` of a store: ``units/<name>.parquet`` and, written last, ``plan.json``. Whoever works
on a unit (a Spark task, a job of an array) writes ``part-<key>-<name>.parquet`` into the table's folder, whole or not
at all. A unit whose part is there is done; two workers on one unit write the same rows, and the later file replaces
the earlier. Readers see the parts when the table's next commit names them all.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from curation import schema
from curation.descriptors.base import Embedder, EmbedderSpec
from curation.descriptors.worker import Effort, Place, Row, embedded
from curation.store import Store, locate, open_uri
from curation.whole_files import put_whole, whole_file

FOLDER = "work"
_PLAN = "plan.json"
UNIT_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("shard", pa.string()),
        ("offset_bytes", pa.int64()),
        ("size_bytes", pa.int64()),
        ("has_error", pa.bool_()),  # the table says that this model failed on it; a second row would say it again
    ]
)


class Unit(NamedTuple):
    """A piece of work: its name within the plan, and its number of images."""

    name: str
    num_images: int


@dataclass(frozen=True)
class Plan:
    """Work for one model on one version of a table.

    Attributes:
        key: names the folder and the parts; another version, model, input or limit makes another plan.
        table: name of the embeddings table.
        version: of the table when the plan was made; at any other the plan is void.
        model: the embedder, as its specification's JSON.
        digest: of the embedder.
        max_pixels: of a picture.
        units: all of them, in the order of the shards.
    """

    key: str
    table: str
    version: int
    model: str
    digest: str
    max_pixels: int
    units: tuple[Unit, ...]

    @property
    def num_images(self) -> int:
        """Images of all units."""
        return sum(unit.num_images for unit in self.units)

    @property
    def spec(self) -> EmbedderSpec:
        """The embedder's specification."""
        return EmbedderSpec.model_validate_json(self.model)

    def part(self, unit: Unit) -> str:
        """The name of a unit's part in the table's folder."""
        return f"part-{self.key}-{unit.name}.parquet"


def key_of(table: str, version: int, digest: str, max_pixels: int, inputs: dict[str, str]) -> str:
    """The key of the plan for a model on a version of a table, with given runs and sources as its input."""
    identity = json.dumps([table, version, digest, max_pixels, inputs], sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def folder_of(store: Store, key: str) -> str:
    """URI of a plan's folder."""
    return store.path(FOLDER, key)


def write_unit(store_uri: str, key: str, name: str, rows: pa.Table) -> None:
    """Write the list of one unit; ``rows`` has the columns of ``UNIT_SCHEMA``."""
    filesystem, path = locate(f"{folder_of(Store(store_uri), key)}/units/{name}.parquet")
    filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
    with whole_file(filesystem, path) as file:
        pq.write_table(rows.select(UNIT_SCHEMA.names).cast(UNIT_SCHEMA), file)


def write_plan(store: Store, plan: Plan) -> None:
    """Declare a plan complete; its units are there."""
    filesystem, path = locate(f"{folder_of(store, plan.key)}/{_PLAN}")
    put_whole(filesystem, path, json.dumps(asdict(plan)).encode())


def read_plan(store: Store, key: str) -> Plan | None:
    """The plan of a key; None where it is absent or was not completed."""
    filesystem, path = locate(f"{folder_of(store, key)}/{_PLAN}")
    if not filesystem.exists(path):
        return None
    with filesystem.open(path, "rb") as file:
        values = json.load(file)
    return Plan(**{**values, "units": tuple(Unit(*unit) for unit in values["units"])})


def plans(store: Store) -> list[Plan]:
    """The plans of a store that are not void."""
    from deltalake import DeltaTable

    filesystem, root = locate(store.path(FOLDER))
    keys = (
        [path.rstrip("/").rpartition("/")[2] for path in filesystem.ls(root, False)] if filesystem.isdir(root) else []
    )
    found = [plan for key in sorted(keys) if (plan := read_plan(store, key)) is not None]
    return [plan for plan in found if DeltaTable(store.table_uri(plan.table)).version() == plan.version]


def remove_plan(store: Store, key: str) -> None:
    """Remove a plan's folder, the declaration first."""
    filesystem, path = locate(folder_of(store, key))
    if filesystem.exists(f"{path}/{_PLAN}"):
        filesystem.rm(f"{path}/{_PLAN}")
    if filesystem.isdir(path):
        filesystem.rm(path, recursive=True)


def pending(store: Store, plan: Plan) -> list[Unit]:
    """The units whose part is not there."""
    filesystem, root = locate(store.table_uri(plan.table))
    there = {path.rpartition("/")[2] for path in filesystem.ls(root, False)} if filesystem.isdir(root) else set()
    return [unit for unit in plan.units if plan.part(unit) not in there]


def is_done(store: Store, plan: Plan, unit: Unit) -> bool:
    """Whether a unit's part is there."""
    filesystem, path = locate(f"{store.table_uri(plan.table)}/{plan.part(unit)}")
    return bool(filesystem.exists(path))


def embed_unit(store: Store, plan: Plan, unit: Unit, embedder: Embedder, threads: int) -> Effort:
    """Do one unit: read its list, embed, write its part.

    Raises:
        OSError: a shard cannot be read; nothing is written.
    """
    assert embedder.digest == plan.digest, f"{embedder.name} is not the model of plan {plan.key}"
    listed = _listed(store, plan.key, unit.name).to_pylist()
    places = [Place(row["image_id"], row["shard"], row["offset_bytes"], row["size_bytes"]) for row in listed]
    has_error = {row["image_id"] for row in listed if row["has_error"]}
    columns, effort = schema.embeddings("").schema, Effort()
    filesystem, path = locate(f"{store.table_uri(plan.table)}/{plan.part(unit)}")
    with (
        store.shard_reader() as read,
        whole_file(filesystem, path) as sink,
        pq.ParquetWriter(sink, columns, compression="zstd") as writer,
    ):
        for rows in _in_groups(embedded(places, read, embedder, plan.max_pixels, threads, effort)):
            news = [row for row in rows if row["vector"] is not None or row["image_id"] not in has_error]
            with effort.timed("write_s"):
                writer.write_table(pa.Table.from_pylist(news, schema=columns))
    return effort


def unit_ids(store: Store, key: str, name: str) -> pa.ChunkedArray:
    """The ids of the images of a unit."""
    return _listed(store, key, name)["image_id"]


def _listed(store: Store, key: str, name: str) -> pa.Table:
    with open_uri(f"{folder_of(store, key)}/units/{name}.parquet") as file:
        return pq.ParquetFile(file).read(use_threads=False)


def num_rows(store: Store, plan: Plan, unit: Unit) -> int:
    """Rows of a unit's part: as many as images, less failures that the table knows."""
    with open_uri(f"{store.table_uri(plan.table)}/{plan.part(unit)}") as file:
        return int(pq.ParquetFile(file).metadata.num_rows)


def _in_groups(batches: Iterator[list[Row]], at_least: int = 1000) -> Iterator[list[Row]]:
    """Rows of batches together, since each write is a row group."""
    rows: list[Row] = []
    for batch in batches:
        rows += batch
        if len(rows) >= at_least:
            yield rows
            rows = []
    if rows:
        yield rows
