import sys

import numpy as np
import pytest

from curation.neighbours import faiss_knn, knn
from curation.neighbours.search import Shard
from tests.curation.neighbours.clones import same_matches, unit_vectors


@pytest.mark.parametrize("k", [1, 5, 300, 1000])
@pytest.mark.parametrize(("tile", "room", "most"), [(65_536, 2**28, 2048), (100, 2000, 2048), (7, 2**28, 9)])
@pytest.mark.parametrize("clones", [0, 150])
def test_the_same_as_without_faiss(monkeypatch, k, tile, room, most, clones):
    for name, value in (("_TILE_ROWS", tile), ("_BATCH_BYTES", room), ("_MOST_FETCHED", most)):
        monkeypatch.setattr(faiss_knn, name, value)
    base, alive = unit_vectors(300, clones=clones, dtype=np.float16), np.random.default_rng(1).random(300) < 0.8
    queries = np.concatenate([base[:20], unit_vectors(20, seed=1, dtype=np.float16)])
    assert same_matches(faiss_knn.nearest(base, queries, k), knn.nearest(base, queries, k))
    assert same_matches(faiss_knn.nearest(base, queries, k, alive), knn.nearest(base, queries, k, alive))


def test_only_what_is_too_close_is_searched_for_twice(monkeypatch):
    base = unit_vectors(500, clones=100)
    again, nearest = [], knn.nearest

    def counted(tile, queries, k):
        again.append(len(queries))
        return nearest(tile, queries, k)

    monkeypatch.setattr(knn, "nearest", counted)
    faiss_knn.nearest(base, base, 5)
    assert (base == base[0]).all(1).sum() <= sum(again) < 150


def test_exact_search_of_a_shard_is_by_faiss_where_that_sees_a_gpu(monkeypatch):
    base = unit_vectors(300, dtype=np.float16)
    shard = Shard(np.arange(300).astype("S"), base)
    monkeypatch.setattr(faiss_knn, "sees_gpu", lambda: True)
    asked, search = [], faiss_knn._inner_product_search
    monkeypatch.setattr(faiss_knn, "_inner_product_search", lambda *args: asked.append(args) or search(*args))
    assert same_matches(shard.search(base[:9], 4), knn.nearest(base, base[:9], 4))
    assert len(asked) == 1


def test_without_faiss_there_is_no_gpu_for_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert not faiss_knn.sees_gpu()
    with pytest.raises(ValueError, match="FAISS is not installed; run: pip install"):
        faiss_knn.nearest(unit_vectors(30), unit_vectors(3), 2)
