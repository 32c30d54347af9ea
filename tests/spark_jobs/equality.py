"""Two runs compared: every table row for row, every file of a release byte for byte."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from curation import schema
from curation.store import Store

EMBEDDINGS = ("embeddings_classical_copy", "embeddings_classical_scene")


def rows(store: Store, name: str) -> list[str]:
    """The rows of a table in an order of their own."""
    return sorted(str(sorted(row.items())) for row in store.table(name).to_pylist())


def assert_same_tables(one: str, other: str, names: Iterable[str] = (*schema.TABLES, *EMBEDDINGS)) -> None:
    """Fail with the first table and row that differ."""
    for name in names:
        left, right = rows(Store(one), name), rows(Store(other), name)
        different = next((pair for pair in zip(left, right, strict=False) if pair[0] != pair[1]), None)
        assert different is None, f"{name}: {different}"
        assert len(left) == len(right), f"{name}: {len(left)} rows against {len(right)}"


def assert_same_release(one: Path, other: Path) -> None:
    """Fail with the first file that differs."""
    left = {path.relative_to(one): path.read_bytes() for path in sorted(one.rglob("*")) if path.is_file()}
    right = {path.relative_to(other): path.read_bytes() for path in sorted(other.rglob("*")) if path.is_file()}
    assert list(left) == list(right)
    assert left, f"{one}: no release there"
    for name, data in left.items():
        assert data == right[name], f"{name} differs"


def num_rows(store: Store) -> dict[str, int]:
    """Rows of every table."""
    counted: dict[str, pa.Table] = {name: store.table(name) for name in (*schema.TABLES, *EMBEDDINGS)}
    return {name: table.num_rows for name, table in counted.items()}
