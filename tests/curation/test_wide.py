import pyarrow as pa
import pytest

from curation import wide as module
from curation.wide import narrow, wide

SCHEMA = pa.schema({"image_id": pa.string(), "rank": pa.int32(), "query_id": pa.string()})


@pytest.mark.parametrize("rows", [0, 1, 5, 6, 7, 20])
def test_a_table_comes_back_as_it_was_in_chunks_of_bounded_size(rows, monkeypatch):
    monkeypatch.setattr(module, "_ROWS", 6)
    columns = {"image_id": [f"{i:032x}" for i in range(rows)], "rank": list(range(rows)), "query_id": [None] * rows}
    table = pa.table(columns, schema=SCHEMA)
    large = wide(table).combine_chunks()
    assert large.schema.types == [pa.large_string(), pa.int32(), pa.large_string()]
    back = narrow(large, SCHEMA)
    assert back.equals(table)
    assert back.schema == SCHEMA
    assert all(len(chunk) <= 6 for chunk in back["image_id"].chunks)
