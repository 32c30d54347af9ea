"""A small store with a known history, written by delta-rs without Spark."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import write_deltalake

from curation import schema

HOSTILE = "http://garden.test/\x1b[31mred\u202e.png"


def put(store: Path, name: str, rows: list[dict[str, Any]]) -> None:
    """Replace a table; columns that a row leaves out are null."""
    table = schema.TABLES[name]
    full = [{column: row.get(column) for column in table.schema.names} for row in rows]
    arrow = pa.Table.from_pylist(full, schema=table.schema)
    uri = str(store / "tables" / name)
    write_deltalake(uri, arrow, mode="overwrite", partition_by=list(table.partition_by) or None)


def run_row(sequence: int, stage: str, rows_in: int, dropped: dict[str, int], after: str | None) -> dict[str, Any]:
    return {
        "sequence": sequence,
        "stage": stage,
        "run_id": f"{stage}-run",
        "recipe": json.dumps({}),
        "inputs": json.dumps({after: f"{after}-run"} if after else {}),
        "tables": json.dumps({"decisions": sequence}),
        "rows_in": rows_in,
        "kept": rows_in - sum(dropped.values()),
        "dropped": json.dumps(dropped),
        "metrics": "{}",
    }
