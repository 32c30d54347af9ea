"""All Delta commits of a store.

Executors write Parquet files under names that are unique to the attempt; the driver then makes them visible in one
Delta commit that carries the run's lineage. A file that no commit names is never read, so a task or a driver that
dies leaves nothing half-written behind.
"""

import json
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.transaction import AddAction
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from curation import schema
from curation.release.canonical import canonical_json
from curation.release.making import link_file
from curation.schema import Table, is_appended
from curation.store import Run, Store, locate
from curation.takedown.forget import Change
from curation.whole_files import put_whole

RUN_ID = "openlvd.run_id"
_WRITTEN = pa.schema([("path", pa.string()), ("size", pa.int64()), ("rows", pa.int64())])


@dataclass(frozen=True)
class RunKey:
    """What makes a run: its id is a hash of the rest, so the same work always has the same id."""

    stage: str
    run_id: str
    recipe: dict[str, Any]
    inputs: dict[str, str]

    def lineage(self, table: Table) -> dict[str, Any]:
        """What every commit of this run carries."""
        return {
            RUN_ID: self.run_id,
            "openlvd.stage": self.stage,
            "openlvd.recipe": canonical(self.recipe),
            "openlvd.inputs": canonical(self.inputs),
            "openlvd.schema_version": str(table.version),
        }


@dataclass(frozen=True)
class Outcome:
    """What a stage hands back: its ledger rows, and how many units it was given (counted apart from the ledger)."""

    rows_in: int
    decisions: DataFrame
    metrics: dict[str, Any] = field(default_factory=dict)


def canonical(value: Any) -> str:
    """JSON with one spelling."""
    return canonical_json(value).decode()


class Tables(Store):
    """A store that can be written: the only place that commits to Delta.

    Raises:
        ValueError: the path has a character that Delta or Spark takes for something else.
    """

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        strange = sorted(set(absolute(self.uri)) & set("#%?*[]{}"))
        if strange:
            raise ValueError(f"store={uri}: the path holds {' '.join(strange)}, which Spark cannot read; name another")

    def frame(self, spark: SparkSession, table: Table) -> DataFrame:
        """A table's current version as a Spark frame (Parquet files named by the Delta log)."""
        return self._frame(spark, table, self._delta(table.name))

    def kept(self, spark: SparkSession, stage: str) -> DataFrame:
        """The ledger rows (image_id, url) that the current run of ``stage`` kept."""
        ledger = self.frame(spark, schema.DECISIONS)
        run_id = self.runs()[stage].run_id
        rows = ledger.where((F.col("run_id") == run_id) & (F.col("decision") == schema.KEEP))
        return rows.select("image_id", "url")

    def write(self, table: Table, rows: DataFrame | pa.Table, run: RunKey) -> None:
        """Replace a table's content by ``rows`` in one commit; does nothing where this run has done so already."""
        delta = self._create(table)
        if not self.written_by(table, run.run_id):
            self._commit(delta, table, self._put(table, rows, {}), run, mode="overwrite")

    def ensure(self, *tables: Table) -> None:
        """Create those of some tables that are not there."""
        for table in tables:
            self._create(table)

    def append(self, table: Table, rows: DataFrame | pa.Table, run: RunKey, transactions: dict[str, int]) -> None:
        """Add facts in one commit that also records, by name, how far each piece of work has come.

        Args:
            table: one that is ``appended``.
            rows: facts that are not in it yet; there may be none.
            run: whoever adds them.
            transactions: name of a piece of work -> a number that grows; ``progress`` gives it back.
        """
        assert table.appended, f"{table.name} is replaced by every run"
        self._commit(self._create(table), table, self._put(table, rows, {}), run, mode="append", also=transactions)

    def adopt(self, table: Table, parts: list[dict[str, Any]], run: RunKey) -> None:
        """Add Parquet files that workers have put into the table's folder, in one commit; only once for a run.

        Args:
            table: one that is ``appended``.
            parts: ``path`` relative to the table, ``size`` in bytes and ``rows`` of each; there may be none.
            run: whoever adds them.
        """
        assert table.appended, f"{table.name} is replaced by every run"
        if not self.has_added(table, run):
            self._commit(self._create(table), table, parts, run, mode="append")

    def has_added(self, table: Table, run: RunKey) -> bool:
        """Whether the run has added its facts to the table."""
        return self.progress(table, [run.run_id])[run.run_id] is not None

    def version(self, table: Table) -> int:
        """The version of a table, which is made where it is absent."""
        return int(self._create(table).version())

    def version_of(self, name: str) -> int:
        """The version of a table that is there."""
        return int(DeltaTable(self.table_uri(name)).version())

    def progress(self, table: Table, names: Iterable[str]) -> dict[str, int | None]:
        """What the last commit that tells of each piece of work recorded of it (see ``append``)."""
        delta = self._delta(table.name)
        return {name: None if delta is None else delta.transaction_version(name) for name in names}

    def append_decisions(self, decisions: DataFrame, run: RunKey) -> None:
        """Append one run's rows to the ledger in one commit; a run that is in the ledger already is not added twice."""
        table = schema.DECISIONS
        delta = self._create(table)
        if delta.transaction_version(run.run_id) is None:
            rows = decisions.withColumns({"stage": F.lit(run.stage), "run_id": F.lit(run.run_id)})
            self._commit(delta, table, self._put(table, rows, {"stage": run.stage}), run, mode="append")

    def finish(self, run: RunKey, rows_in: int, metrics: dict[str, Any], tables: Iterable[Table]) -> None:
        """Count the run's ledger rows, hold the law of conservation, and record the run as finished.

        Raises:
            AssertionError: rows in differ from kept plus dropped; the run stays unfinished.
        """
        mine = (pc.field("stage") == run.stage) & (pc.field("run_id") == run.run_id)
        kept, dropped = self.counts(mine).get(run.run_id, (0, {}))
        total = kept + sum(dropped.values())
        assert rows_in == total, f"{run.stage}: {rows_in} rows in, but {kept} kept + {dropped} dropped = {total}"
        versions = {t.name: DeltaTable(self.table_uri(t.name)).version() for t in (*tables, schema.DECISIONS)}
        row = {
            "sequence": self.table("runs").num_rows,
            "stage": run.stage,
            "run_id": run.run_id,
            "recipe": canonical(run.recipe),
            "inputs": canonical(run.inputs),
            "tables": canonical(versions),
            "rows_in": rows_in,
            "kept": kept,
            "dropped": canonical(dropped),
            "metrics": canonical(metrics),
        }
        delta = self._create(schema.RUNS)
        parts = self._put(schema.RUNS, pa.Table.from_pylist([row], schema.RUNS.schema), {})
        self._commit(delta, schema.RUNS, parts, run, mode="append")

    def write_sources(self, folders: dict[str, str]) -> None:
        """Record where imported images lie, for readers of the store (whole or not at all)."""
        filesystem, path = locate(self.path("sources.json"))
        named = {name: absolute(folder) for name, folder in sorted(folders.items())}
        known = self.sources()
        if known | named != known:
            put_whole(filesystem, path, json.dumps(known | named, indent=1).encode())

    def rewrite(self, name: str, change: Change) -> bool:
        """Let a table forget, in one commit that keeps the lineage of the one before: whose table it is stays true.

        Files that need no change get another name in that commit, and the old ones are no longer needed
        (:meth:`purge`). Nothing that is forgotten is named by the log, as a predicate would be.

        Returns:
            Whether anything had to be changed.
        """
        delta = self._delta(name)
        if delta is None:
            return False
        filesystem, root = locate(self.table_uri(name))
        columns, parts, changed = pa.schema(delta.schema().to_arrow()), [], False
        for path in self.files(delta):
            partition = dict(part.split("=", 1) for part in path.split("/")[:-1])
            rows = _read_part(filesystem, f"{root}/{path}", [c for c in change.columns if c not in partition])
            prefix = "".join(f"{key}={value}/" for key, value in partition.items())
            if change.touches(rows):
                changed = True
                rows = _read_part(filesystem, f"{root}/{path}", [f.name for f in columns if f.name not in partition])
                for key, value in partition.items():
                    rows = rows.append_column(key, pa.repeat(value, len(rows)).cast(columns.field(key).type))
                rows = change.apply(rows.select(columns.names))
                stays = pa.schema([field for field in columns if field.name not in partition])
                put = _put_batches(rows.select(stays.names).to_batches(), self.table_uri(name), prefix, stays)
                parts += [part | {"partition": partition} for batch in put for part in batch.to_pylist()]
            else:
                part = {"path": f"{prefix}part-{uuid.uuid4().hex}.parquet", "size": filesystem.size(f"{root}/{path}")}
                parts.append(part | {"rows": len(rows), "partition": partition, "as": path})
        if changed:
            for part in parts:
                if "as" in part:
                    link_file(f"{self.table_uri(name)}/{part['as']}", f"{self.table_uri(name)}/{part['path']}")
            lineage = {key: value for key, value in delta.history(1)[0].items() if key.startswith("openlvd.")}
            self._replace(delta, parts, lineage)
        return changed

    def restate_runs(self, restate: Callable[[dict[str, Any]], dict[str, Any]]) -> bool:
        """Tell of finished runs what is true of them after a takedown; ``restate`` is given each row as it is."""

        def apply(rows: pa.Table) -> pa.Table:
            return pa.Table.from_pylist([restate(row) for row in rows.to_pylist()], rows.schema)

        return self.rewrite("runs", Change(tuple(schema.RUNS.schema.names), lambda rows: apply(rows) != rows, apply))

    def purge(self, name: str, but: frozenset[str] = frozenset()) -> int:
        """Remove the files of a table that its current version does not name. Returns how many.

        Args:
            name: of the table, whose earlier versions cannot be read any more then.
            but: file names that stay whatever names them.
        """
        delta = self._delta(name)
        if delta is None:
            return 0
        filesystem, root = locate(self.table_uri(name))
        named = {f"{root}/{path}" for path in self.files(delta)}
        old = [path for path in filesystem.find(root) if path.endswith(".parquet") and "/_delta_log/" not in path]
        old = [path for path in old if path not in named and path.rpartition("/")[2] not in but]
        for path in old:
            filesystem.rm(path)
        return len(old)

    def written_by(self, table: Table, run_id: str) -> bool:
        """Whether the table's newest commit is this run's."""
        delta = self._delta(table.name)
        return delta is not None and delta.history(1)[0].get(RUN_ID) == run_id

    def attempts(self, base: str) -> int:
        """How often a run with this hash has finished: the first is called by the hash alone."""
        ids = self.table("runs", columns=["run_id"])["run_id"].to_pylist()
        return sum(run_id.partition("-")[0] == base for run_id in ids)

    def is_intact(self, run: Run) -> bool:
        """Whether the tables that a run replaced are still as it left them, and those it added to still there."""
        for name, version in run.tables.items():
            delta = self._delta(name)
            if delta is None or delta.version() < version or (delta.version() > version and not is_appended(name)):
                return False
        return True

    def counts(self, where: pc.Expression) -> dict[str, tuple[int, dict[str, int]]]:
        """Of each run with ledger rows ``where``: how many units it kept, and dropped by reason."""
        rows = self.table("decisions", ["run_id", "decision", "reason"], where)
        counted = rows.group_by(["run_id", "decision", "reason"]).aggregate([([], "count_all")])
        order = [("run_id", "ascending"), ("decision", "ascending"), ("reason", "ascending")]
        found: dict[str, tuple[int, dict[str, int]]] = {}
        for row in counted.sort_by(order).to_pylist():
            kept, dropped = found.get(row["run_id"], (0, {}))
            if (row["decision"], row["reason"]) == (schema.KEEP, None):
                kept += row["count_all"]
            else:
                dropped = dropped | {schema.Reason(row["reason"]).value: row["count_all"]}
            found[row["run_id"]] = kept, dropped
        return found

    def _delta(self, name: str) -> DeltaTable | None:
        uri = self.table_uri(name)
        return DeltaTable(uri) if DeltaTable.is_deltatable(uri) else None

    def _create(self, table: Table) -> DeltaTable:
        uri = self.table_uri(table.name)
        delta = DeltaTable.create(uri, table.schema, mode="ignore", partition_by=list(table.partition_by))
        found = {field.name: field.type for field in pa.schema(delta.schema().to_arrow())}
        if found != {field.name: field.type for field in table.schema}:
            raise ValueError(
                f"{uri}: its columns are {list(found)}, but version {table.version} of this table has "
                f"{table.schema.names}; it was written by another release of openlvd: use that one, or a new store"
            )
        return delta

    def _frame(self, spark: SparkSession, table: Table, delta: DeltaTable | None) -> DataFrame:
        kinds, uri = from_arrow_schema(table.schema), self.table_uri(table.name)
        files = [f"{uri}/{path}" for path in self.files(delta)] if delta is not None else []
        if not files:
            return spark.createDataFrame([], kinds)
        reader = spark.read.schema(kinds)
        if table.partition_by:
            reader = reader.option("basePath", uri)
        return reader.parquet(*files)

    def _put(self, table: Table, rows: DataFrame | pa.Table, partition: dict[str, str]) -> list[dict[str, Any]]:
        """Write Parquet files below the table and say what was written."""
        columns = pa.schema([f for f in table.schema if f.name not in partition])
        prefix = "".join(f"{key}={value}/" for key, value in partition.items())
        put = partial(_put_batches, folder=self.table_uri(table.name), prefix=prefix, columns=columns)
        if isinstance(rows, pa.Table):
            written = list(put(rows.select(columns.names).to_batches()))
            return [row for batch in written for row in batch.to_pylist()]
        frame = rows.select(*columns.names)
        return [row.asDict() for row in frame.mapInArrow(put, from_arrow_schema(_WRITTEN)).collect()]

    def _commit(
        self,
        delta: DeltaTable,
        table: Table,
        parts: list[dict[str, Any]],
        run: RunKey,
        mode: str,
        also: dict[str, int] | None = None,
    ) -> None:
        partition = dict.fromkeys(table.partition_by, run.stage)
        delta.create_write_transaction(
            [_added(part, partition) for part in parts],
            mode,
            delta.schema(),
            partition_by=list(table.partition_by) or None,
            commit_properties=CommitProperties(
                custom_metadata=run.lineage(table),
                app_transactions=[Transaction(name, n) for name, n in {run.run_id: 1, **(also or {})}.items()],
            ),
        )

    @staticmethod
    def _replace(delta: DeltaTable, parts: list[dict[str, Any]], lineage: dict[str, str]) -> None:
        delta.create_write_transaction(
            [_added(part, part["partition"]) for part in parts],
            "overwrite",
            delta.schema(),
            partition_by=delta.metadata().partition_columns or None,
            commit_properties=CommitProperties(custom_metadata=lineage),
        )


def _added(part: dict[str, Any], partition: dict[str, str]) -> AddAction:
    return AddAction(
        path=part["path"],
        size=part["size"],
        partition_values=partition,
        modification_time=0,
        data_change=True,
        stats=canonical({"numRecords": part["rows"]}),
    )


def _read_part(filesystem: Any, path: str, columns: list[str]) -> pa.Table:
    with filesystem.open(path, "rb") as file:
        return pq.ParquetFile(file, pre_buffer=False).read(columns=columns, use_threads=False)


def absolute(root: str) -> str:
    """A path or URI as a URI that does not depend on the working folder."""
    filesystem, path = locate(root)
    return str(filesystem.unstrip_protocol(path))


def _put_batches(
    batches: Iterable[pa.RecordBatch], folder: str, prefix: str, columns: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Write batches into one Parquet file of a name nobody else uses; no rows, no file."""
    path = f"{prefix}part-{uuid.uuid4().hex}.parquet"
    filesystem, root = locate(folder)
    filesystem.makedirs(f"{root}/{prefix}".rstrip("/"), exist_ok=True)
    rows = 0
    writer = sink = None
    for batch in batches:
        if batch.num_rows == 0:
            continue
        if writer is None:
            sink = filesystem.open(f"{root}/{path}", "wb")
            writer = pq.ParquetWriter(sink, columns, compression="zstd")
        writer.write_table(pa.Table.from_batches([batch]).cast(columns))
        rows += batch.num_rows
    if writer is not None and sink is not None:
        writer.close()
        sink.close()
        size = filesystem.size(f"{root}/{path}")
        yield pa.RecordBatch.from_pylist([{"path": path, "size": size, "rows": rows}], schema=_WRITTEN)
