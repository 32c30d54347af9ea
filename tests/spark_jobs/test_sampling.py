"""Samples by id are what a sort of everything would give, of a fraction of the rows."""

import hashlib

import pytest

from spark_jobs.sampling import _near_the_end, sample

pytestmark = pytest.mark.spark


def test_a_sample_is_the_first_or_last_by_id_and_few_rows_are_looked_at(spark):
    ids = [hashlib.sha256(bytes([i % 256, i // 256])).hexdigest()[:32] for i in range(5000)]
    frame = spark.createDataFrame([(i,) for i in ids], "image_id string").repartition(4)
    assert [row["image_id"] for row in sample(frame, 500)] == sorted(ids)[:500]
    assert [row["image_id"] for row in sample(frame, 500, last=True)] == sorted(ids, reverse=True)[:500]
    assert 500 <= _near_the_end(frame, 500, last=False).count() <= 700
    assert len(sample(frame, 6000)) == 5000
    assert sample(frame, 0) == []


def test_ids_that_are_no_hashes_cost_a_sort_and_no_row(spark):
    ids = [f"f{i:031x}" for i in range(100)]
    frame = spark.createDataFrame([(i,) for i in ids], "image_id string")
    assert [row["image_id"] for row in sample(frame, 10)] == ids[:10]
