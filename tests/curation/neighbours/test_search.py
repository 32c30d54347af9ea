import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.neighbours import knn
from curation.neighbours.quantiser import Quantiser
from curation.neighbours.search import Codebook, Probing, mark_dead, read_shard, search_shards, write_shard

DIM = 32


def _clustered(num, seed=0, num_clusters=40, spread=0.25):
    """Unit vectors as embeddings lie: groups of near ones, ids in no order that the vectors know of."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((num_clusters, DIM))
    vectors = centres[rng.integers(0, num_clusters, num)] + spread * rng.standard_normal((num, DIM)) * 2
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = np.sort([f"{value:016x}" for value in rng.choice(2**40, num, replace=False)])
    return ids, vectors.astype(np.float16)


def _written(folder, ids, vectors, parts, codebook=None):
    shards = []
    for part in np.unique(parts):
        path = folder / f"{part:03}"
        write_shard(path, ids[parts == part].tolist(), vectors[parts == part], codebook)
        shards.append(read_shard(path, codebook))
    return shards


def _told(found):
    return found.query.tolist(), found.ids.tolist(), found.similarity.tobytes()


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 40), st.booleans())
@settings(max_examples=25, deadline=None)
def test_exact_search_gives_the_same_for_any_sharding(tmp_path_factory, seed, num_shards, k, clones):
    ids, vectors = _clustered(200, seed)
    rng = np.random.default_rng(seed)
    if clones:
        vectors[rng.integers(0, 200, 90)] = vectors[0]
    queries = np.concatenate([vectors[:5], _clustered(10, seed + 1)[1]])
    whole = knn.nearest(vectors, queries, k)
    shards = _written(tmp_path_factory.mktemp("shards"), ids, vectors, rng.integers(0, num_shards, 200))
    found = search_shards(shards, queries, k)
    assert _told(found) == (whole.query.tolist(), ids[whole.row].astype("S").tolist(), whole.similarity.tobytes())


@pytest.fixture(scope="module")
def codebook():
    return Codebook.train(_clustered(3000, seed=5)[1], num_lists=16, num_bytes=8, seed=0)


def _recall(found, exact):
    right = set(zip(exact.query.tolist(), exact.ids.tolist(), strict=True))
    return len(right & set(zip(found.query.tolist(), found.ids.tolist(), strict=True))) / len(right)


def test_codes_with_exact_scores_find_what_exact_search_finds(tmp_path, codebook):
    ids, vectors = _clustered(4000)
    queries = _clustered(100, seed=1)[1]
    parts = np.arange(4000) % 3
    shards = _written(tmp_path / "coded", ids, vectors, parts, codebook)
    exact = search_shards(_written(tmp_path / "flat", ids, vectors, parts), queries, 10)
    wide = search_shards(shards, queries, 10, Probing(num_probes=16, over_fetch=32))
    narrow = search_shards(shards, queries, 10, Probing(num_probes=1, over_fetch=1))
    assert _recall(wide, exact) >= 0.99
    assert 0.3 < _recall(narrow, exact) < _recall(wide, exact)
    row = {key: i for i, key in enumerate(ids.astype("S").tolist())}
    exactly = knn.similarities_of_rows(queries, vectors, wide.query, np.array([row[key] for key in wide.ids.tolist()]))
    assert exactly.tobytes() == wide.similarity.tobytes()


def test_codes_give_the_same_for_any_batch_of_queries(tmp_path, codebook):
    ids, vectors = _clustered(2000)
    queries = _clustered(60, seed=1)[1]
    [shard] = _written(tmp_path, ids, vectors, np.zeros(2000, int), codebook)
    whole = shard.search(queries, 5)
    for size in (1, 7, 59):
        parts = [shard.search(queries[start : start + size], 5) for start in range(0, 60, size)]
        assert np.concatenate([part.row for part in parts]).tolist() == whole.row.tolist()
        assert np.concatenate([part.similarity for part in parts]).tobytes() == whole.similarity.tobytes()


def test_a_snapshot_is_one_more_shard_and_equals_what_is_built_anew(tmp_path, codebook):
    ids, vectors = _clustered(2000)
    snapshot = np.random.default_rng(3).integers(0, 4, 2000)
    queries = _clustered(30, seed=1)[1]
    grown = []
    for part in range(4):  # one after another, the earlier ones untouched
        grown += _written(tmp_path / "grown" / str(part), ids[snapshot == part], vectors[snapshot == part],
                          np.full((snapshot == part).sum(), part), codebook)  # fmt: skip
    again = Codebook.from_bytes(codebook.to_bytes())
    rebuilt = _written(tmp_path / "rebuilt", ids, vectors, snapshot, again)
    assert again.digest == codebook.digest
    assert _told(search_shards(grown, queries, 5)) == _told(search_shards(rebuilt, queries, 5))
    for part in range(4):
        files = [tmp_path / name / f"{part:03}" / "codes.faiss" for name in (f"grown/{part}", "rebuilt")]
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("coded", [False, True])
def test_the_dead_are_passed_over_and_the_next_moves_up(tmp_path, codebook, coded):
    ids, vectors = _clustered(1500)
    queries = vectors[:40]
    [shard] = _written(tmp_path, ids, vectors, np.zeros(1500, int), codebook if coded else None)
    every = Probing(num_probes=16, over_fetch=200)
    before = search_shards([shard], queries, 3, every)
    first = before.ids[::3].astype(str)
    assert mark_dead(tmp_path / "000", [*first.tolist(), "ffffffffffffffff"]) == len(set(first.tolist()))
    again = read_shard(tmp_path / "000", shard.codebook)
    after = search_shards([again], queries, 3, every)
    assert not set(after.ids.tolist()) & set(first.astype("S").tolist())
    living = ~np.isin(ids, first)
    expected = knn.nearest(vectors[living], queries, 3)
    assert after.ids.tolist() == ids[living][expected.row].astype("S").tolist()
    assert mark_dead(tmp_path / "000", ids.tolist()) == 1500
    assert len(search_shards([read_shard(tmp_path / "000", shard.codebook)], queries, 3).query) == 0


def test_a_codebook_is_the_same_for_the_same_sample():
    sample = _clustered(600)[1]
    assert Codebook.train(sample, 4, 8, 7).digest == Codebook.train(sample, 4, 8, 7).digest
    assert Codebook.train(sample, 4, 8, 7).digest != Codebook.train(sample, 4, 8, 8).digest


def test_what_does_not_fit_is_refused(tmp_path, codebook):
    ids, vectors = _clustered(300)
    with pytest.raises(ValueError, match="code_bytes 7 does not divide the dimension 32"):
        Codebook.train(vectors, 4, 7, 0)
    with pytest.raises(ValueError, match="100 vectors cannot train 256 codes"):
        Codebook.train(vectors[:100], 4, 8, 0)
    with pytest.raises(ValueError, match="ascending"):
        write_shard(tmp_path / "a", ids[::-1].tolist(), vectors)
    with pytest.raises(ValueError, match="have length 16 and the codebook's 32"):
        write_shard(tmp_path / "a", ids.tolist(), vectors[:, :16], codebook)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="no shard can be read"):
        read_shard(tmp_path / "absent")
    write_shard(tmp_path / "flat", ids.tolist(), vectors)
    with pytest.raises(ValueError, match="no shard can be read"):
        read_shard(tmp_path / "flat", codebook)
    write_shard(tmp_path / "coded", ids.tolist(), vectors, codebook)
    with pytest.raises(ValueError, match=f"are of codebook {codebook.digest[:16]}, not"):
        read_shard(tmp_path / "coded", Codebook.train(vectors, 4, 8, 0))
    bad = vectors.copy()
    bad[17] = np.inf
    for name, opened in (("flat", None), ("coded", codebook)):
        shard = read_shard(tmp_path / name, opened)
        with pytest.raises(ValueError, match="k 0"):
            shard.search(vectors[:2], 0)
        with pytest.raises(ValueError, match="row 17 of the queries"):
            shard.search(bad, 2)
        with pytest.raises(ValueError, match="row 17 of the vectors of bad"):
            write_shard(tmp_path / "bad", ids.tolist(), bad, opened)
    with pytest.raises(ValueError, match="row 17 of the vectors trained on"):
        Codebook.train(bad, 4, 8, 0)
    for options in ({"num_probes": 0}, {"over_fetch": 0}):
        with pytest.raises(ValueError, match="0: give 1 or more"):
            Probing(**options)
    with pytest.raises(ValueError, match="not a codebook"):
        Codebook.from_bytes(b"PK nothing")
    assert isinstance(codebook.quantiser, Quantiser)


def test_empty(tmp_path, codebook):
    ids, vectors = _clustered(300)
    write_shard(tmp_path / "none", [], vectors[:0], codebook)
    write_shard(tmp_path / "some", ids.tolist(), vectors, codebook)
    shards = [read_shard(tmp_path / name, codebook) for name in ("none", "some")]
    assert len(search_shards(shards, vectors[:2], 4).ids) == 8
    assert len(search_shards(shards[:1], vectors[:2], 4).ids) == 0
    assert len(search_shards([], vectors[:2], 4).ids) == 0


def test_zero_vectors_spoil_no_codebook(tmp_path):
    ids, vectors = _clustered(1000)
    vectors[::7] = 0
    codebook = Codebook.train(vectors, 60, 8, 0)
    assert codebook.quantiser.centroids.any(axis=1).all()
    assert np.isfinite(codebook.codes).all()
    write_shard(tmp_path / "some", ids.tolist(), vectors, codebook)
    found = search_shards([read_shard(tmp_path / "some", codebook)], vectors[1:7], 1, Probing(60, 50))
    assert found.ids.tolist() == ids[1:7].astype("S").tolist()
