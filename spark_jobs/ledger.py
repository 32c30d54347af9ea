"""Ledger rows from a frame that knows a subject and, where it was dropped, the reason."""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_type

from curation import schema

_BY_THE_FRAME = {"stage", "run_id", "decision"}


def ledger_rows(rows: DataFrame, **columns: Column | str | None) -> DataFrame:
    """Rows of ``schema.DECISIONS``, less what the stage frame adds.

    Args:
        rows: one row for every unit the stage looked at.
        columns: the ledger columns, as Spark columns or names in ``rows``; those not given are null.
            A null ``reason`` keeps the unit, any other drops it.
    """
    values = {}
    for field in schema.DECISIONS.schema:
        if field.name in _BY_THE_FRAME:
            continue
        value = columns.pop(field.name, None)
        column = F.lit(None) if value is None else F.col(value) if isinstance(value, str) else value
        values[field.name] = column.cast(from_arrow_type(field.type))
    assert not columns, f"not columns of the ledger: {sorted(columns)}"
    decision = F.when(values["reason"].isNull(), schema.KEEP).otherwise(schema.DROP)
    return rows.select(decision.alias("decision"), *(column.alias(name) for name, column in values.items()))
