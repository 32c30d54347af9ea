import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.neighbours import join as join_module
from curation.neighbours.join import Exact, Spill, join, meeting_list
from curation.neighbours.tiles import Pairs, within
from tests.curation.neighbours.planted import planted

METHODS = [Exact(), Spill(num_lists=20, spill=4)]


def whole(*args, **options):
    return Pairs.concatenate(list(join(*args, **options)))


def as_set(pairs):
    return set(zip(pairs.left.tolist(), pairs.right.tolist(), pairs.similarity.tolist(), strict=True))


def test_exact_is_one_tile():
    vectors = planted(700, 32, seed=2)
    assert as_set(whole(vectors, 0.6, method=Exact())) == as_set(within(vectors, 0.6))


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 400), st.integers(1, 12), st.integers(1, 5), st.integers(0, 9))
def test_spill_gives_each_pair_once_and_only_true_ones(num_vectors, num_lists, spill, seed):
    vectors = planted(num_vectors, 16, seed)
    found, exact = whole(vectors, 0.6, method=Spill(num_lists, spill)), within(vectors, 0.6)
    assert len(as_set(found)) == len(found)
    assert (found.left < found.right).all()
    assert as_set(found) <= as_set(exact)
    if spill >= num_lists:  # everybody visits every list
        assert as_set(found) == as_set(exact)


def test_spill_finds_most_pairs_and_more_with_more_lists_a_vector():
    vectors = planted(2000, 32, seed=3)
    num_exact = len(within(vectors, 0.6))
    few, more = (len(whole(vectors, 0.6, method=Spill(num_lists=20, spill=spill))) for spill in (3, 8))
    assert 0.8 * num_exact < few < more > 0.98 * num_exact


@pytest.mark.parametrize("method", METHODS)
def test_threads_do_not_show(method):
    vectors = planted(2500, 24, seed=9).astype(np.float16)
    one, three = (list(join(vectors, 0.6, method=method, num_threads=num)) for num in (1, 3))
    assert len(one) == len(three)
    for a, b in zip(one, three, strict=True):
        for column in ("left", "right", "similarity"):
            np.testing.assert_array_equal(getattr(a, column), getattr(b, column))


@pytest.mark.parametrize("room", [2**28, 12 * 7 * 5])
@pytest.mark.parametrize("k", [1, 2, 7])
@pytest.mark.parametrize("method", METHODS)
def test_k_keeps_what_is_near_to_either_side_in_any_memory(k, method, room, monkeypatch):
    monkeypatch.setattr(join_module, "_PLACES_BYTES", room)
    vectors = planted(300, 24, seed=4)
    vectors[20:30] = vectors[20]  # ties
    similarity = np.full((300, 300), -np.inf, np.float32)
    pairs = whole(vectors, 0.5, method=method)
    similarity[pairs.left, pairs.right] = similarity[pairs.right, pairs.left] = pairs.similarity
    near = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    expected = {(min(i, j), max(i, j)) for i in range(300) for j in near[i] if similarity[i, j] > -np.inf}
    assert {pair[:2] for pair in as_set(whole(vectors, 0.5, k=k, method=method))} == expected


def test_nothing_to_join():
    nothing = np.empty((0, 8), np.float16)
    for method in METHODS:
        assert len(whole(nothing, 0.5, method=method)) == len(whole(nothing, 0.5, method=method, k=3)) == 0
    with pytest.raises(ValueError, match="k 0"):
        join(nothing, 0.5, k=0)


def test_refuses_what_cannot_be():
    for options in ({"num_lists": 0}, {"spill": 0}):
        with pytest.raises(ValueError, match="0: give 1 or more"):
            Spill(**options)
    vectors = planted(300, 24, seed=4)
    with pytest.raises(ValueError, match="threshold nan"):
        join(vectors, float("nan"), method=METHODS[1])
    vectors[[217, 240]] = np.inf
    for method in METHODS:
        with pytest.raises(ValueError, match="row 217"):
            join(vectors, 0.5, method=method)


def test_zero_vectors_are_similar_to_nothing():
    vectors = planted(300, 24, seed=4)
    vectors[::3] = 0
    some = vectors.any(axis=1)
    found = whole(vectors, 0.6, method=Spill(num_lists=300, spill=300))
    assert len(found) == len(within(vectors[some], 0.6))
    assert some[[found.left, found.right]].all()
    assert len(whole(vectors[:1], 0.6, method=Spill())) == 0


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 4))
def test_a_pair_meets_in_one_list_whichever_side_is_named_first(seed, num_lists, spill):
    rng = np.random.default_rng(seed)
    a, b = (np.stack([rng.permutation(num_lists)[:spill] for _ in range(40)]) for _ in range(2))
    met = meeting_list(a, b)
    np.testing.assert_array_equal(met, meeting_list(b, a))
    for one, two, number in zip(a.tolist(), b.tolist(), met.tolist(), strict=True):
        homes = ({one[0]} & set(two)) | ({two[0]} & set(one))
        assert number == min(homes, default=-1)
