import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.neighbours import knn
from curation.neighbours.product_codes import Codebook
from curation.neighbours.quantiser import Quantiser
from curation.neighbours.search import mark_dead, read_shard, search_shards, write_shard

DIM = 32


def _clustered(num, seed=0, num_clusters=40, spread=0.25):
    """Unit vectors as embeddings lie: groups of near ones, ids in no order that the vectors know of."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((num_clusters, DIM))
    vectors = centres[rng.integers(0, num_clusters, num)] + spread * rng.standard_normal((num, DIM)) * 2
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = np.sort([f"{value:016x}" for value in rng.choice(2**40, num, replace=False)])
    return ids, vectors.astype(np.float16)


def _written(folder, ids, vectors, parts, trained=None):
    shards = []
    for part in np.unique(parts):
        path = folder / f"{part:03}"
        write_shard(path, ids[parts == part].tolist(), vectors[parts == part], trained)
        shards.append(read_shard(path, trained))
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
def quantiser():
    return Quantiser.train(_clustered(3000, seed=5)[1], num_lists=16, seed=0)


@pytest.fixture(scope="module")
def codebook():
    return Codebook.train(_clustered(3000, seed=5)[1], num_lists=16, num_bytes=8, seed=0)


@pytest.fixture(params=["flat", "ivf", "ivfpq"])
def trained(request, quantiser, codebook):
    return {"flat": None, "ivf": quantiser, "ivfpq": codebook}[request.param]


def _recall(found, exact):
    right = set(zip(exact.query.tolist(), exact.ids.tolist(), strict=True))
    return len(right & set(zip(found.query.tolist(), found.ids.tolist(), strict=True))) / len(right)


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 40), st.integers(1, 16), st.booleans())
@settings(max_examples=25, deadline=None)
def test_lists_give_the_best_of_what_is_in_them_for_any_sharding(
    tmp_path_factory, quantiser, seed, num_shards, k, num_probes, clones
):
    ids, vectors = _clustered(400, seed)
    rng = np.random.default_rng(seed)
    if clones:
        vectors[rng.integers(0, 400, 250)] = vectors[0]
    queries = np.concatenate([vectors[:5], _clustered(10, seed + 1)[1]])
    shards = _written(tmp_path_factory.mktemp("shards"), ids, vectors, rng.integers(0, num_shards, 400), quantiser)
    found = search_shards(shards, queries, k, num_probes)
    home, looked_in = quantiser.nearest(vectors, 1)[:, 0], quantiser.nearest(queries, num_probes)
    for query in range(15):
        inside = np.isin(home, looked_in[query])
        expected = knn.nearest(vectors[inside], queries[query : query + 1], k)
        of_query = found.query == query
        assert found.ids[of_query].tolist() == ids[inside][expected.row].astype("S").tolist()
        assert found.similarity[of_query].tobytes() == expected.similarity.tobytes()


def test_the_more_lists_the_more_is_found(tmp_path, quantiser):
    ids, vectors = _clustered(4000, spread=1)
    queries = _clustered(100, seed=1, spread=1)[1]
    exact = search_shards(_written(tmp_path / "flat", ids, vectors, np.zeros(4000, int)), queries, 10)
    shards = _written(tmp_path / "lists", ids, vectors, np.zeros(4000, int), quantiser)
    recalls = [_recall(search_shards(shards, queries, 10, num_probes), exact) for num_probes in (1, 4, 16)]
    assert 0.1 < recalls[0] < recalls[1] < recalls[2] == 1


def test_codes_with_exact_scores_find_what_exact_search_finds(tmp_path, codebook):
    ids, vectors = _clustered(4000)
    queries = _clustered(100, seed=1)[1]
    parts = np.arange(4000) % 3
    shards = _written(tmp_path / "coded", ids, vectors, parts, codebook)
    exact = search_shards(_written(tmp_path / "flat", ids, vectors, parts), queries, 10)
    wide = search_shards(shards, queries, 10, num_probes=16, over_fetch=32)
    narrow = search_shards(shards, queries, 10, num_probes=1, over_fetch=1)
    assert _recall(wide, exact) >= 0.99
    assert 0.3 < _recall(narrow, exact) < _recall(wide, exact)
    row = {key: i for i, key in enumerate(ids.astype("S").tolist())}
    exactly = knn.similarities_of_rows(queries, vectors, wide.query, np.array([row[key] for key in wide.ids.tolist()]))
    assert exactly.tobytes() == wide.similarity.tobytes()


def test_any_batch_of_queries_gives_the_same(tmp_path, trained):
    ids, vectors = _clustered(2000)
    queries = _clustered(60, seed=1)[1]
    [shard] = _written(tmp_path, ids, vectors, np.zeros(2000, int), trained)
    whole = shard.search(queries, 5)
    for size in (1, 7, 59):
        parts = [shard.search(queries[start : start + size], 5) for start in range(0, 60, size)]
        assert np.concatenate([part.row for part in parts]).tolist() == whole.row.tolist()
        assert np.concatenate([part.similarity for part in parts]).tobytes() == whole.similarity.tobytes()


def test_a_snapshot_is_one_more_shard_and_equals_what_is_built_anew(tmp_path, trained):
    ids, vectors = _clustered(2000)
    snapshot = np.random.default_rng(3).integers(0, 4, 2000)
    queries = _clustered(30, seed=1)[1]
    grown = []
    for part in range(4):  # one after another, the earlier ones untouched
        mine = snapshot == part
        grown += _written(tmp_path / "once", ids[mine], vectors[mine], np.full(mine.sum(), part), trained)
    again = None if trained is None else type(trained).from_bytes(trained.to_bytes())
    rebuilt = _written(tmp_path / "again", ids, vectors, snapshot, again)
    assert _told(search_shards(grown, queries, 5)) == _told(search_shards(rebuilt, queries, 5))
    once = sorted(path for path in (tmp_path / "once").rglob("*") if path.is_file())
    assert len(once) == {type(None): 12, Quantiser: 20, Codebook: 16}[type(trained)]
    for path in once:
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(tmp_path / "once")).read_bytes()


def test_the_dead_are_passed_over_and_the_next_moves_up(tmp_path, trained):
    ids, vectors = _clustered(1500)
    queries = vectors[:40]
    [shard] = _written(tmp_path, ids, vectors, np.zeros(1500, int), trained)
    before = search_shards([shard], queries, 3, 16, 200)
    first = before.ids[::3].astype(str)
    assert mark_dead(tmp_path / "000", [*first.tolist(), "ffffffffffffffff"]) == len(set(first.tolist()))
    again = read_shard(tmp_path / "000", trained)
    after = search_shards([again], queries, 3, 16, 200)
    assert not set(after.ids.tolist()) & set(first.astype("S").tolist())
    living = ~np.isin(ids, first)
    expected = knn.nearest(vectors[living], queries, 3)
    assert after.ids.tolist() == ids[living][expected.row].astype("S").tolist()
    assert mark_dead(tmp_path / "000", ids.tolist()) == 1500
    assert len(search_shards([read_shard(tmp_path / "000", trained)], queries, 3).query) == 0


def test_a_codebook_is_the_same_for_the_same_sample():
    sample = _clustered(600)[1]
    assert Codebook.train(sample, 4, 8, 7).digest == Codebook.train(sample, 4, 8, 7).digest
    assert Codebook.train(sample, 4, 8, 7).digest != Codebook.train(sample, 4, 8, 8).digest


def test_what_makes_no_codebook_is_refused():
    vectors = _clustered(300)[1]
    with pytest.raises(ValueError, match="code_bytes 7 does not divide the dimension 32"):
        Codebook.train(vectors, 4, 7, 0)
    with pytest.raises(ValueError, match="100 vectors cannot train 256 codes"):
        Codebook.train(vectors[:100], 4, 8, 0)
    vectors[17] = np.inf
    with pytest.raises(ValueError, match="row 17 of the vectors trained on"):
        Codebook.train(vectors, 4, 8, 0)
    with pytest.raises(ValueError, match="not a codebook"):
        Codebook.from_bytes(b"PK nothing")


def test_what_does_not_fit_is_refused(tmp_path, quantiser, codebook):
    ids, vectors = _clustered(300)
    with pytest.raises(ValueError, match="ascending"):
        write_shard(tmp_path / "a", ids[::-1].tolist(), vectors)
    with pytest.raises(ValueError, match=r"\[300, 16\]; the quantiser has 32 dimensions"):
        write_shard(tmp_path / "a", ids.tolist(), vectors[:, :16], quantiser)
    with pytest.raises(ValueError, match="have length 16 and the codebook's 32"):
        write_shard(tmp_path / "a", ids.tolist(), vectors[:, :16], codebook)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="no shard can be read"):
        read_shard(tmp_path / "absent")
    write_shard(tmp_path / "flat", ids.tolist(), vectors)
    write_shard(tmp_path / "listed", ids.tolist(), vectors, quantiser)
    write_shard(tmp_path / "coded", ids.tolist(), vectors, codebook)
    lists, codes = f"quantiser {quantiser.digest}", f"codebook {codebook.digest}"
    other, another = Quantiser.train(vectors, 4, 0), Codebook.train(vectors, 4, 8, 0)
    for name, opened, told in (
        ("flat", quantiser, f"nothing trained and read with {lists};"),
        ("listed", None, f"{lists} and read with nothing trained;"),
        ("listed", other, f"{lists} and read with quantiser {other.digest};"),
        ("listed", codebook, f"{lists} and read with {codes};"),
        ("coded", another, f"{codes} and read with codebook {another.digest};"),
    ):
        with pytest.raises(ValueError, match=f"{name}: written with {told} read it with what it was written with"):
            read_shard(tmp_path / name, opened)
    bad = vectors.copy()
    bad[17] = np.inf
    for name, opened in (("flat", None), ("listed", quantiser), ("coded", codebook)):
        shard = read_shard(tmp_path / name, opened)
        with pytest.raises(ValueError, match="k 0"):
            shard.search(vectors[:2], 0)
        with pytest.raises(ValueError, match="num_probes 0: give 1 or more"):
            shard.search(vectors[:2], 1, 0)
        with pytest.raises(ValueError, match="over_fetch 0: give 1 or more"):
            shard.search(vectors[:2], 1, 1, 0)
        with pytest.raises(ValueError, match="row 17 of the queries"):
            shard.search(bad, 2)
        with pytest.raises(ValueError, match="row 17 of the vectors of bad"):
            write_shard(tmp_path / "bad", ids.tolist(), bad, opened)
    (tmp_path / "coded" / "codes.faiss").write_bytes(b"IwPQ nothing")
    with pytest.raises(ValueError, match="coded: its codes cannot be read"):
        read_shard(tmp_path / "coded", codebook)


def test_empty(tmp_path, trained):
    ids, vectors = _clustered(300)
    write_shard(tmp_path / "none", [], vectors[:0], trained)
    write_shard(tmp_path / "some", ids.tolist(), vectors, trained)
    shards = [read_shard(tmp_path / name, trained) for name in ("none", "some")]
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
    found = search_shards([read_shard(tmp_path / "some", codebook)], vectors[1:7], 1, 60, 50)
    assert found.ids.tolist() == ids[1:7].astype("S").tolist()
