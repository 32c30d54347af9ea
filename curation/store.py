"""A store as a reader sees it: Delta tables without Spark or Java, image bytes, and which runs are current."""

import errno
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs
from fsspec.implementations.local import LocalFileSystem

from curation import schema

if TYPE_CHECKING:
    from deltalake import DeltaTable


_OPEN_SHARDS = 8  # readers that go through a few shards by turns must not open one anew for every image


def locate(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a path or URI, and the path in it; ``::``, ``#``, ``%`` and ``*`` are part of a file's name.

    ``fsspec.open`` and ``url_to_fs`` take ``a::b.jpg`` for a chain of two file systems.

    Raises:
        ValueError: no file system is known for the URI's scheme.
        ImportError: the package that reads it is not installed.
    """
    scheme, separator, _ = uri.partition("://")
    if not separator or "/" in scheme or scheme in ("file", "local"):
        return LocalFileSystem(), LocalFileSystem._strip_protocol(uri)
    kind = fsspec.get_filesystem_class(scheme)
    return fsspec.filesystem(scheme, **kind._get_kwargs_from_urls(uri)), kind._strip_protocol(uri)


def open_uri(uri: str) -> BinaryIO:
    """Open the one file that a path or URI names, to read its bytes.

    Raises:
        OSError: it cannot be opened.
    """
    filesystem, path = locate(uri)
    file: BinaryIO = filesystem.open(path, "rb")
    return file


@dataclass(frozen=True)
class Run:
    """One finished run of a stage, as the ``runs`` table keeps it."""

    stage: str
    run_id: str
    recipe: dict[str, Any]
    inputs: dict[str, str]
    tables: dict[str, int]
    rows_in: int
    kept: int
    dropped: dict[str, int]
    metrics: dict[str, Any]

    def upstream(self) -> dict[str, str]:
        """The runs among the inputs: stage to run id."""
        return {name: run_id for name, run_id in self.inputs.items() if name in schema.STAGES}


class Store:
    """Reads one store.

    Args:
        uri: a folder or an fsspec URI that holds ``tables/``, ``shards/`` and ``logs/``.
    """

    def __init__(self, uri: str) -> None:
        self.uri = str(uri).rstrip("/")

    def path(self, *parts: str) -> str:
        """URI of something inside the store."""
        return "/".join([self.uri, *parts])

    def table_uri(self, name: str) -> str:
        """URI of a Delta table."""
        return self.path("tables", name)

    def table(
        self,
        name: str,
        columns: list[str] | None = None,
        filter: pc.Expression | None = None,
    ) -> pa.Table:
        """Read a table's current version; an unwritten table of a known schema reads as empty.

        Raises:
            ValueError: the table neither exists nor has a schema in ``curation.schema``.
        """
        from deltalake import DeltaTable

        if not DeltaTable.is_deltatable(self.table_uri(name)):
            known = _empty(name)
            if known is None:
                raise ValueError(f"{self.uri}: no table {name!r}; run the stage that writes it first")
            return known.select(columns) if columns else known
        table = DeltaTable(self.table_uri(name))
        files = self.files(table)
        arrow = pa.schema(table.schema().to_arrow())
        if not files:
            return pa.table({f.name: pa.array([], f.type) for f in arrow}).select(columns or arrow.names)
        # Arrow's own file systems: one in Python is called back from threads that outlive the read, and a process that
        # ends meanwhile aborts (so also with table.to_pyarrow_dataset())
        local, root = locate(self.table_uri(name))
        filesystem = None
        if local.protocol != ("file", "local"):
            filesystem, root = pa.fs.FileSystem.from_uri(self.table_uri(name))
        partitions = pa.schema([arrow.field(column) for column in table.metadata().partition_columns])
        dataset = ds.dataset(
            [f"{root}/{path}" for path in files],
            schema=arrow,
            format="parquet",
            filesystem=filesystem,
            partitioning=ds.partitioning(partitions, flavor="hive") if len(partitions) else None,
            partition_base_dir=root,
        )
        return dataset.to_table(columns=columns, filter=filter)

    @staticmethod
    def files(table: "DeltaTable") -> list[str]:
        """The Parquet files of a table's version, relative to it (``file_uris`` would encode blanks and umlauts)."""
        return sorted(pa.table(table.get_add_actions())["path"].to_pylist())

    def last_runs(self) -> dict[str, Run]:
        """The last finished run of every stage, in the order of the stages, whether or not its input is still there."""
        rows = self.table("runs").sort_by("sequence").to_pylist()
        last = {row["stage"]: row for row in rows}
        return {stage: _run(last[stage]) for stage in schema.STAGES if stage in last}

    def runs(self) -> dict[str, Run]:
        """The current run of every stage, in order: the last one, if the runs it read are current too."""
        current: dict[str, Run] = {}
        for stage, run in self.last_runs().items():
            if all(name in current and current[name].run_id == run_id for name, run_id in run.upstream().items()):
                current[stage] = run
        return current

    def decisions(self, stage: str | None = None) -> pa.Table:
        """Ledger rows of the current runs: of one stage, or of all."""
        current = {run.run_id for name, run in self.runs().items() if stage in (None, name)}
        return self.table("decisions", filter=pc.field("run_id").isin(pa.array(sorted(current), pa.string())))

    def highest_nsfw(self, image_ids: pa.ChunkedArray) -> float | None:
        """The highest score that a detector of unsafe content gave one of some images; None where none has a score."""
        nsfw = pc.field("label") == "nsfw"
        tables = (schema.DETECTIONS.name, schema.OWN_DETECTIONS.name)
        scored = pa.concat_tables([self.table(name, ["image_id", "score"], nsfw) for name in tables])
        return pc.max(scored.filter(pc.is_in(scored["image_id"], image_ids.combine_chunks()))["score"]).as_py()

    def sources(self) -> dict[str, str]:
        """Where imported images lie: source name to folder, as the runs that read them recorded it."""
        filesystem, path = locate(self.path("sources.json"))
        if not filesystem.exists(path):
            return {}
        with filesystem.open(path, "rb") as file:
            return dict(json.load(file))

    def shard_uri(self, shard: str, sources: dict[str, str] | None = None) -> str:
        """URI of a shard as ``images.shard`` names it ("store:<path>" or "<source>:<path>").

        Args:
            shard: the name.
            sources: what ``sources()`` gave before, so that it need not be read for every shard.

        Raises:
            ValueError: the name leaves its root, or its source is unknown to this store.
        """
        sources = self.sources() if sources is None else sources
        root, _, relative = shard.partition(":")
        inside = relative and not relative.startswith("/") and ".." not in PurePosixPath(relative).parts
        if not inside or (root == "store" and not relative.startswith("shards/")):
            raise ValueError(f"shard {shard!r} points outside its root; the images table is damaged")
        if root == "store":
            return self.path(relative)
        if root not in sources:
            raise ValueError(f"shard {shard!r}: unknown source {root!r}; add sources.images.{root}=PATH")
        return f"{sources[root].rstrip('/')}/{relative}"

    @contextmanager
    def shard_reader(self) -> Iterator[Callable[[str, int, int], bytes]]:
        """Read many images: ``read(shard, offset_bytes, size_bytes)``, fastest in shard order; a size of -1 is all.

        ``read`` raises ``ValueError`` for a name that leaves its root, and ``OSError`` for a shard that is not there
        any more or has become too short.
        """
        sources = self.sources()
        opened: OrderedDict[str, BinaryIO] = OrderedDict()  # the one used last is the last

        def read(shard: str, offset_bytes: int, size_bytes: int) -> bytes:
            if shard not in opened:
                while len(opened) >= _OPEN_SHARDS:
                    opened.popitem(last=False)[1].close()
                opened[shard] = _open_shard(shard, self.shard_uri(shard, sources))
            opened.move_to_end(shard)
            opened[shard].seek(offset_bytes)
            data = bytes(opened[shard].read(size_bytes))
            if len(data) < size_bytes:
                short = f"has no {size_bytes} bytes at {offset_bytes} any more; restore it, or index it again"
                raise OSError(errno.EIO, short, shard)
            return data

        try:
            yield read
        finally:
            for file in opened.values():
                file.close()

    def read_image(self, shard: str, offset_bytes: int, size_bytes: int) -> bytes:
        """The encoded bytes of one image: a single ranged read."""
        with self.shard_reader() as read:
            return read(shard, offset_bytes, size_bytes)


def _open_shard(shard: str, uri: str) -> BinaryIO:
    try:
        return open_uri(uri)
    except FileNotFoundError as error:
        gone = "is not there any more; put it back, or index what is there now"
        raise FileNotFoundError(errno.ENOENT, gone, shard) from error


def _run(row: dict[str, Any]) -> Run:
    texts = {key: json.loads(row[key]) for key in ("recipe", "inputs", "tables", "dropped", "metrics")}
    return Run(row["stage"], row["run_id"], rows_in=row["rows_in"], kept=row["kept"], **texts)


def _empty(name: str) -> pa.Table | None:
    known = schema.TABLES.get(name)
    if known is None and name.startswith("embeddings_"):
        known = schema.embeddings(name.removeprefix("embeddings_"))
    return None if known is None else known.schema.empty_table()
