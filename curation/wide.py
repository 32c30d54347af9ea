"""Tables whose ids are more than 2 GB, some 67 million: Arrow sorts and takes rows of ``large_string`` alone then."""

import numpy as np
import pyarrow as pa

_ROWS = 1 << 22  # whose strings surely are less than 2 GB


def wide(table: pa.Table) -> pa.Table:
    """The same table with every ``string`` column as ``large_string``."""
    fields = [field.with_type(pa.large_string()) if field.type == pa.string() else field for field in table.schema]
    return table.cast(pa.schema(fields))


def narrow(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table with the types of ``schema``, in chunks that these can hold."""
    parts = [table.slice(start, _ROWS) for start in range(0, len(table), _ROWS)]
    # taking copies a part out of its column, whose places are too large for the type
    parts = [part.take(pa.array(np.arange(len(part)))).cast(schema) for part in parts]
    return pa.concat_tables([schema.empty_table(), *parts])
