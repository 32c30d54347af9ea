import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.neighbours import knn
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


def _written(folder, ids, vectors, parts, quantiser=None):
    shards = []
    for part in np.unique(parts):
        path = folder / f"{part:03}"
        write_shard(path, ids[parts == part].tolist(), vectors[parts == part], quantiser)
        shards.append(read_shard(path, quantiser))
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


def test_lists_give_the_same_for_any_batch_of_queries(tmp_path, quantiser):
    ids, vectors = _clustered(2000)
    queries = _clustered(60, seed=1)[1]
    [shard] = _written(tmp_path, ids, vectors, np.zeros(2000, int), quantiser)
    whole = shard.search(queries, 5)
    for size in (1, 7, 59):
        parts = [shard.search(queries[start : start + size], 5) for start in range(0, 60, size)]
        assert np.concatenate([part.row for part in parts]).tolist() == whole.row.tolist()
        assert np.concatenate([part.similarity for part in parts]).tobytes() == whole.similarity.tobytes()


def test_equal_arguments_give_equal_files(tmp_path, quantiser):
    ids, vectors = _clustered(2000)
    again = Quantiser.from_bytes(quantiser.to_bytes())
    for name, one in (("once", quantiser), ("again", again)):
        _written(tmp_path / name, ids, vectors, np.arange(2000) % 3, one)
    once = sorted(path for path in (tmp_path / "once").rglob("*") if path.is_file())
    assert len(once) == 15
    for path in once:
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(tmp_path / "once")).read_bytes()


@pytest.mark.parametrize("listed", [False, True])
def test_the_dead_are_passed_over_and_the_next_moves_up(tmp_path, quantiser, listed):
    ids, vectors = _clustered(1500)
    queries = vectors[:40]
    [shard] = _written(tmp_path, ids, vectors, np.zeros(1500, int), quantiser if listed else None)
    before = search_shards([shard], queries, 3, 16)
    first = before.ids[::3].astype(str)
    assert mark_dead(tmp_path / "000", [*first.tolist(), "ffffffffffffffff"]) == len(set(first.tolist()))
    used = quantiser if listed else None
    again = read_shard(tmp_path / "000", used)
    after = search_shards([again], queries, 3, 16)
    assert not set(after.ids.tolist()) & set(first.astype("S").tolist())
    living = ~np.isin(ids, first)
    expected = knn.nearest(vectors[living], queries, 3)
    assert after.ids.tolist() == ids[living][expected.row].astype("S").tolist()
    assert mark_dead(tmp_path / "000", ids.tolist()) == 1500
    assert len(search_shards([read_shard(tmp_path / "000", used)], queries, 3).query) == 0


def test_what_does_not_fit_is_refused(tmp_path, quantiser):
    ids, vectors = _clustered(300)
    with pytest.raises(ValueError, match="ascending"):
        write_shard(tmp_path / "a", ids[::-1].tolist(), vectors)
    with pytest.raises(ValueError, match=r"\[300, 16\]; the quantiser has 32 dimensions"):
        write_shard(tmp_path / "a", ids.tolist(), vectors[:, :16], quantiser)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="no shard can be read"):
        read_shard(tmp_path / "absent")
    write_shard(tmp_path / "flat", ids.tolist(), vectors)
    write_shard(tmp_path / "listed", ids.tolist(), vectors, quantiser)
    written, other = f"quantiser {quantiser.digest[:16]}", Quantiser.train(vectors, 4, 0)
    for name, opened, told in (
        ("flat", quantiser, f"no quantiser and read with {written};"),
        ("listed", None, f"{written} and read with no quantiser;"),
        ("listed", other, f"{written} and read with quantiser {other.digest[:16]};"),
    ):
        with pytest.raises(ValueError, match=f"{name}: written with {told} read it with what it was written with"):
            read_shard(tmp_path / name, opened)
    bad = vectors.copy()
    bad[17] = np.inf
    for name, opened in (("flat", None), ("listed", quantiser)):
        shard = read_shard(tmp_path / name, opened)
        with pytest.raises(ValueError, match="k 0"):
            shard.search(vectors[:2], 0)
        with pytest.raises(ValueError, match="num_probes 0: give 1 or more"):
            shard.search(vectors[:2], 1, 0)
        with pytest.raises(ValueError, match="row 17 of the queries"):
            shard.search(bad, 2)
        with pytest.raises(ValueError, match="row 17 of the vectors of bad"):
            write_shard(tmp_path / "bad", ids.tolist(), bad, opened)


def test_empty(tmp_path, quantiser):
    ids, vectors = _clustered(300)
    write_shard(tmp_path / "none", [], vectors[:0], quantiser)
    write_shard(tmp_path / "some", ids.tolist(), vectors, quantiser)
    shards = [read_shard(tmp_path / name, quantiser) for name in ("none", "some")]
    assert len(search_shards(shards, vectors[:2], 4).ids) == 8
    assert len(search_shards(shards[:1], vectors[:2], 4).ids) == 0
    assert len(search_shards([], vectors[:2], 4).ids) == 0
