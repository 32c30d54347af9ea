import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.neighbours import quantiser, tiles
from curation.neighbours.compute import in_order
from curation.neighbours.similarity import pair_similarities
from curation.neighbours.tiles import between, rounded_down, within
from tests.curation.neighbours.planted import planted


def brute(a, b, threshold):
    left, right = (side.ravel() for side in np.indices((len(a), len(b))))
    similarity = pair_similarities(a[left], b[right])
    above = similarity > np.float32(threshold)
    return left[above], right[above], similarity[above]


def assert_same(pairs, expected):
    for got, wanted in zip((pairs.left, pairs.right, pairs.similarity), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def product_dtype(request, monkeypatch):
    """Both ways a machine may multiply, whichever this one is fast at."""
    for module in (tiles, quantiser):
        monkeypatch.setattr(module, "product_dtype", lambda _: request.param)


@pytest.mark.usefixtures("product_dtype")
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("threshold", [-0.1, 0.001, 0.6])
def test_finds_exactly_the_pairs_that_brute_force_finds(dtype, threshold):
    vectors = planted(500, 48, seed=1).astype(dtype)
    left, right, similarity = brute(vectors, vectors, threshold)
    upper = left < right
    assert_same(within(vectors, threshold), (left[upper], right[upper], similarity[upper]))
    hosts = upper & (left < 90)
    assert_same(within(vectors, threshold, num_hosts=90), (left[hosts], right[hosts], similarity[hosts]))
    a, b = vectors[:137], vectors[137:]
    assert_same(between(a, b, threshold), brute(a, b, threshold))


@pytest.mark.usefixtures("product_dtype")
def test_a_threshold_that_is_a_similarity_is_not_above_itself():
    vectors = planted(300, 64, seed=6)
    for threshold in within(vectors, 0.5).similarity[:20]:
        left, right, similarity = brute(vectors, vectors, threshold)
        upper = left < right
        assert_same(within(vectors, float(threshold)), (left[upper], right[upper], similarity[upper]))


@pytest.mark.usefixtures("product_dtype")
def test_vectors_need_not_be_of_unit_length():
    vectors = planted(300, 64, seed=7) * np.random.default_rng(0).uniform(0.1, 30, (300, 1)).astype(np.float32)
    left, right, similarity = brute(vectors, vectors, 0.9)
    upper = left < right
    assert_same(within(vectors, 0.9), (left[upper], right[upper], similarity[upper]))


@pytest.mark.usefixtures("product_dtype")
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_equal_vectors_are_found_whatever_their_terms_are_rounded_to(dtype):
    rng = np.random.default_rng(0)
    for dim in (*range(200, 260), *rng.integers(260, 2048, 60), 1017):
        signs = np.where(rng.random(dim) < 0.5, -1, 1) / np.sqrt(dim)
        clones = np.tile(signs, (3, 1)).astype(dtype)
        assert len(within(clones, 0.999)) == 3, dim
        assert len(between(clones[:1], -clones, -1.001)) == 3, dim


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0.05, 20),  # of a term's binade
    st.sampled_from([-(2**-8) + 2**-12, 2**-9, 2**-8 - 2**-12, 2**-8 + 2**-12, 3 * 2**-8 - 2**-12]),
    st.integers(1, 300),
    st.floats(-1, 1),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.booleans(),
)
def test_terms_next_to_the_edge_of_rounding_lose_no_pair(scale, edge, dim, cosine, product, half):
    vectors = np.full((2, dim), 2.0 ** np.round(np.log2(scale)) * (1 + edge))
    vectors[1] *= cosine
    vectors = vectors.astype(np.float16 if half else np.float32)
    similarity = float(pair_similarities(vectors[:1], vectors[1:])[0])
    below = float(np.nextafter(np.float32(similarity), np.float32(-np.inf)))
    before, tiles.product_dtype = tiles.product_dtype, lambda _: product
    try:
        for threshold, found in ((below, 1), (similarity, 0)):
            assert len(within(vectors, threshold)) == found
            assert len(between(vectors[:1], vectors[1:], threshold)) == found
    finally:
        tiles.product_dtype = before


@given(st.floats(-1e30, 1e30), st.sampled_from([torch.float32, torch.bfloat16]))
def test_limits_are_rounded_down_in_the_dtype_of_the_products(value, dtype):
    rounded = rounded_down(value, dtype)
    assert torch.tensor(rounded, dtype=dtype).double() == rounded <= value
    assert float(torch.nextafter(torch.tensor(rounded, dtype=dtype), torch.tensor(torch.inf, dtype=dtype))) > value


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named(bad):
    vectors = planted(1500, 32, seed=8).astype(np.float16)
    vectors[[1300, 1400], 3] = bad
    with pytest.raises(ValueError, match="row 1300 of the tile is not finite"):
        within(vectors, 0.6)
    with pytest.raises(ValueError, match="row 1300 of the tile"):
        between(vectors[:10], vectors, 0.6)
    with pytest.raises(ValueError, match="threshold"):
        within(vectors[:10], bad)


@pytest.mark.filterwarnings("error")
def test_tiles_may_be_read_only():
    vectors = planted(50, 32, seed=8).astype(np.float16)
    vectors.flags.writeable = False
    assert len(within(vectors, -2)) == 50 * 49 // 2


def test_more_pairs_than_a_block_has_room_for_at_first():
    clones = np.tile(planted(1, 32, seed=0), (400, 1))
    assert len(within(clones, 0.99)) == 400 * 399 // 2


def test_blocks_do_not_show(monkeypatch):
    vectors = planted(1500, 32, seed=8)
    whole = within(vectors, 0.6)
    monkeypatch.setattr(tiles, "BLOCK_ROWS", 256)
    assert_same(within(vectors, 0.6), (whole.left, whole.right, whole.similarity))


def test_nothing_is_similar_to_nothing():
    nothing, some = np.empty((0, 8), np.float16), np.ones((3, 8), np.float16)
    assert len(within(nothing, 0.5)) == len(between(nothing, some, 0.5)) == len(between(some, nothing, 0.5)) == 0


def test_refuses_what_is_no_tile():
    with pytest.raises(ValueError, match="float64"):
        within(np.ones((3, 8)), 0.5)
    with pytest.raises(ValueError, match="one width"):
        between(np.ones((3, 8), np.float32), np.ones((3, 9), np.float32), 0.5)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_results_come_in_the_order_of_the_items_and_errors_with_them(num_threads):
    before = torch.get_num_threads()
    assert list(in_order(lambda item: item * 2, range(40), num_threads)) == list(range(0, 80, 2))
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda item: 1 // item, [2, 1, 0], num_threads))
    assert torch.get_num_threads() == before
