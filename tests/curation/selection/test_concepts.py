import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from curation.selection import concepts


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=50))
def test_measures_are_those_of_their_definitions(counts):
    counts = np.array(counts)
    if counts.sum():
        assert concepts.effective_number(counts) == pytest.approx(np.exp(entropy(counts)))
        pairs = np.abs(counts[:, None] - counts[None, :]).mean()
        assert concepts.gini(counts) == pytest.approx(pairs / (2 * counts.mean()), abs=1e-9)


def test_even_and_uneven():
    assert concepts.balance(np.array([7, 7, 7])) == {"images": 21, "clusters": 3, "effective_number": 3.0, "gini": 0.0}
    lone = concepts.balance(np.array([9, 0, 0, 0]))
    assert (lone["clusters"], lone["effective_number"], lone["gini"]) == (1, 1.0, 0.75)
    assert concepts.balance(np.zeros(3, int)) == {"images": 0, "clusters": 0, "effective_number": 0.0, "gini": 0.0}


def test_sizes_and_where_queries_lie():
    assert concepts.sizes(np.array([2, 0, 2]), 4).tolist() == [1, 0, 2, 0]
    assert concepts.sizes(np.array([], np.int32), 2).tolist() == [0, 0]
    assert concepts.nearest_clusters(np.array([5, 1, 1, 5, 3]), 2) == [[1, 2], [5, 2]]
    assert concepts.nearest_clusters(np.array([], np.int32)) == []


def test_the_sentence_names_both_sides():
    sides = {"pool": concepts.balance(np.array([90, 10])), "selection": concepts.balance(np.array([10, 10]))}
    said = concepts.sentence(sides)
    assert "100 images in 2 clusters" in said
    assert "selected 20" in said
