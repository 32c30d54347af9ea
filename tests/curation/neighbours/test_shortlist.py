import numpy as np
import pytest
import torch

from curation.neighbours.shortlist import GROUP, Shortlists


def _no_need(query, rows):
    raise AssertionError(f"query {query}: {len(rows)} rows fill a list")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shift", [0, -3, 3])  # of both signs, all negative, all positive
@pytest.mark.parametrize("k", [1, 7, 300])
def test_none_of_the_best_is_let_go_and_few_others_stay(dtype, shift, k):
    rng = np.random.default_rng(k)
    exact = rng.standard_normal((9, 5000)) + shift
    error = 1e-3
    lists = Shortlists(9, k, _no_need)
    for start in range(0, 5000, 1000):
        queries, rows = rng.permutation(9), np.arange(start, start + 1000)
        moved = exact[queries][:, rows] + rng.uniform(-error, error, (9, 1000))
        filled = torch.full((128, 16 * GROUP), 100.0, dtype=dtype)  # what fills up is not looked at
        filled[:9, :1000] = torch.from_numpy(moved)
        lists.offer(filled, queries, rows, error)
    query, row = lists.pairs()
    assert (np.diff(query) >= 0).all()
    for one in range(9):
        kept = row[query == one]
        assert len(set(kept.tolist())) == len(kept) < k + 20 + 0.2 * k
        assert set(np.argsort(-exact[one])[:k].tolist()) <= set(kept.tolist())


def test_what_is_stored_on_two_sides_of_a_rounding_step_may_be_in_either_order():
    lists = Shortlists(1, 4, _no_need)
    middle, error = 3.0390625, 1e-3  # between two numbers of bfloat16
    exact = torch.zeros(64, GROUP)
    exact[0, :4], exact[0, 4:8] = middle + 0.2 * error, middle - 0.2 * error
    moved = exact.clone()
    moved[0, :4], moved[0, 4:8] = middle - 0.5 * error, middle + 0.5 * error
    lists.offer(moved.bfloat16(), np.array([0]), np.arange(GROUP), error)
    assert set(lists.pairs()[1].tolist()) == set(range(8))


def test_a_full_list_is_ranked_exactly():
    clones = np.arange(1000)[::-1].copy()
    asked = []

    def lowest(query, rows):
        asked.append(query)
        return np.argsort(rows)[:5]

    lists = Shortlists(3, 5, lowest)
    products = torch.full((64, 1024), 0.5)
    lists.offer(products, np.array([2, 0]), clones, 1e-6)
    query, row = lists.pairs()
    assert {0, 2} == set(asked)
    for one in (0, 2):
        assert {0, 1, 2, 3, 4} <= set(row[query == one].tolist())
    assert 1 not in query
