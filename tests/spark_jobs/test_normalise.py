import numpy as np
import pyarrow as pa
import pytest

from curation.neighbours import knn, normalise
from spark_jobs.config import Normalise
from spark_jobs.normalise import that_stand_out
from tests.spark_jobs.pool import Pool

pytestmark = pytest.mark.spark


def _vectors(num, seed, dim=24):
    vectors = np.random.default_rng(seed).standard_normal((num, dim))
    vectors[: num // 2] += 2  # half of the pictures are of one kind, and so is the background
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def test_edges_stay_where_they_stand_out_of_the_background(spark):
    vectors, background = _vectors(80, 0), _vectors(50, 1)
    ids = [f"{i:032x}" for i in range(80)]
    found = knn.nearest(vectors, vectors, 10)
    once = found.query < found.row
    left, right, similarity = found.query[once], found.row[once], found.similarity[once]
    edges = pa.table(
        {
            "lower_id": [ids[i] for i in left],
            "higher_id": [ids[i] for i in right],
            "similarity": pa.array(similarity, pa.float32()),
        }
    )
    embedded = pa.table({"image_id": ids, "vector": [vector.tobytes() for vector in vectors]})
    settings = Normalise(background="others", num_neighbours=5, weight=0.5)
    frames = [spark.createDataFrame(table.to_pandas()) for table in (edges, embedded)]
    kept = that_stand_out(
        frames[0].selectExpr("lower_id", "higher_id", "float(similarity)"), frames[1], background, settings, 0.1
    )
    bias = normalise.bias(vectors, background, 5, 0.5)
    passes = normalise.normalised(similarity, bias[left], bias[right]) > 0.1
    expected = {
        (ids[a], ids[b], float(s)) for a, b, s in zip(left[passes], right[passes], similarity[passes], strict=True)
    }
    assert 0 < len(expected) < (similarity > 0.1).sum()
    assert {tuple(row) for row in kept.select("lower_id", "higher_id", "similarity").collect()} == expected
    with pytest.raises(ValueError, match="'others', which holds 3 embedded images, fewer than num_neighbours=5"):
        that_stand_out(*frames, background[:3], settings, 0.1)


def test_deduplication_leaves_alone_what_resembles_the_background(spark, tmp_path):
    rng = np.random.default_rng(0)
    kind = _near(rng, 6, 0.1)
    common = {f"{i:032x}": vector for i, vector in enumerate(kind[:4])}  # four pictures of one kind
    copies = {f"{i:032x}": vector for i, vector in enumerate(_near(rng, 2, 0.1), 10)}
    background = {f"{i:032x}": vector for i, vector in enumerate([*kind[4:], *_vectors(20, 5)], 100)}
    pool = Pool(spark, tmp_path, ["sources.collections.others=/nowhere"])
    pool.embed(common | copies, {"others": background})
    settings = "recipe.dedup.normalise={background: others, num_neighbours: 2}"
    report = pool.dedup(settings, "recipe.dedup.threshold=0.3")
    assert report.dropped == {"near_duplicate": 1}
    assert set(pool.store.table("components")["image_id"].to_pylist()) == set(copies)


def _near(rng, num, spread, dim=24):
    vectors = rng.standard_normal(dim) + spread * rng.standard_normal((num, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
