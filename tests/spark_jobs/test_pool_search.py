import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from conf import load
from curation import schema
from curation.neighbours import knn
from spark_jobs.config import CurationConfig
from spark_jobs.ledger import ledger_rows
from spark_jobs.pool_search import search_pool
from spark_jobs.stage import Context
from spark_jobs.tables import RunKey, Tables

pytestmark = pytest.mark.spark
MODEL, DIGEST = "classical_scene", "b" * 64


def _images(num, seed, dim=32):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).standard_normal((20, dim))
    vectors = centres[rng.integers(0, 20, num)] + 0.7 * rng.standard_normal((num, dim))
    vectors[rng.integers(0, num, num // 5)] = vectors[0]  # clones beyond k
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.sort([rng.bytes(16).hex() for _ in range(num)]), vectors.astype(np.float16)


@pytest.fixture(scope="module")
def pool():
    return _images(600, 0)


@pytest.fixture(scope="module")
def asked():
    return _images(40, 1)


@pytest.fixture(scope="module")
def context(spark, pool, asked, tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    own = [f"store={folder / 'store'}", f"release={folder / 'release'}", f"sources.collections.asked={folder}"]
    own += ["recipe.retrieve.sets={asked: {method: sample, k: 7}}", "sources.pages=[]"]
    config = load(CurationConfig, "conf/curation/demo.yaml", own)
    store, run = Tables(config.store), RunKey("embed", "embed1", {}, {})
    rows = [
        {"image_id": image_id, "vector": vector.tobytes(), "model": model, "error": None}
        for ids, vectors in (pool, asked)
        for model, sign in ((DIGEST, 1), ("c" * 64, -1))  # vectors of an earlier model lie there too
        for image_id, vector in zip(ids.tolist(), sign * vectors, strict=True)
    ]
    table = schema.embeddings(config.recipe.retrieve.model)
    store.write(table, pa.Table.from_pylist(rows, table.schema), run)
    members = [{"collection": "asked", "image_id": i, "path": path} for i in asked[0].tolist() for path in "ab"]
    store.write(schema.COLLECTIONS, pa.Table.from_pylist(members, schema.COLLECTIONS.schema), run)
    nobody = spark.createDataFrame([], "image_id string")
    store.append_decisions(ledger_rows(nobody, image_id="image_id"), run)
    metrics = {config.recipe.retrieve.model: {"digest": DIGEST}}
    store.finish(run, 0, metrics, [table, schema.COLLECTIONS])
    return Context(spark, store, config, RunKey("retrieve", "retrieve1", {}, {}))


def _found(context, ids, partitions, **search):
    retrieve = context.config.recipe.retrieve
    retrieve = retrieve.model_copy(update={"search": retrieve.search.model_copy(update=search)})
    config = context.config.model_copy(
        update={
            "recipe": context.config.recipe.model_copy(update={"retrieve": retrieve}),
            "runtime": context.config.runtime.model_copy(update={"partitions": partitions}),
        }
    )
    kept = context.spark.createDataFrame([(i,) for i in ids.tolist()], "image_id string")
    log = search_pool(dataclasses.replace(context, config=config), kept, {"asked": 7})["asked"]
    assert log.schema == schema.RETRIEVALS.schema
    return [(r["query_id"], r["rank"], r["image_id"], np.float32(r["similarity"])) for r in log.to_pylist()]


def _expected(pool, asked, keep=slice(None)):
    found = knn.nearest(pool[1][keep], asked[1], 7)
    columns = asked[0][found.query], found.rank(), pool[0][keep][found.row], found.similarity
    return [(str(q), int(rank), str(i), s) for q, rank, i, s in zip(*columns, strict=True)]


def test_any_shards_and_partitions_give_what_one_search_gives(context, pool, asked):
    assert _found(context, pool[0], 1, shard_images=1000) == _expected(pool, asked)
    kept = pool[0][::2]  # the vectors of what has left the pool stay in the table
    assert _found(context, kept, 3, shard_images=37) == _expected(pool, asked, slice(None, None, 2))


def test_codes_find_nearly_the_same_for_any_partitions(context, pool, asked):
    options = {"method": "ivfpq", "num_lists": 8, "code_bytes": 16, "num_probes": 8, "over_fetch": 40}
    found = _found(context, pool[0], 1, shard_images=200, **options)
    assert found == _found(context, pool[0], 3, shard_images=200, **options)
    exact = _expected(pool, asked)
    assert len(set(found) & set(exact)) / len(exact) >= 0.95


def test_lists_find_nearly_the_same_for_any_shards_and_partitions(context, pool, asked):
    options = {"method": "ivf", "num_lists": 8, "num_probes": 6}
    found = _found(context, pool[0], 1, shard_images=200, **options)
    assert found == _found(context, pool[0], 3, shard_images=60, **options)
    exact = _expected(pool, asked)
    assert len(set(found) & set(exact)) / len(exact) >= 0.95
