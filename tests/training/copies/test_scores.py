import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve

from training.copies import scores


@st.composite
def _candidates(draw):
    num_queries, num_references = draw(st.integers(1, 8)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    levels = draw(st.integers(2, 1000))  # few levels: many ties
    similarity = rng.integers(0, levels, (num_queries, num_references)) / levels
    truth = rng.integers(-1, num_references, num_queries)
    truth[0] = 0
    right = truth[:, None] == np.arange(num_references)
    return similarity, right, np.unique(rng.integers(0, 5, num_queries), return_inverse=True)[1]


@given(_candidates())
@settings(max_examples=200, deadline=None)
def test_both_measures_equal_sklearns(candidates):
    similarity, right, sources = candidates
    ranking = scores.rank(similarity, right, sources)
    assert scores.micro_ap(ranking)[0] == pytest.approx(average_precision_score(right.ravel(), similarity.ravel()))
    precision, recall, _ = precision_recall_curve(right.ravel(), similarity.ravel())
    expected = recall[precision >= 0.9].max()  # sklearn ends its curve with precision 1 at recall 0
    assert scores.recall_at_precision(ranking)[0][0] == pytest.approx(expected)


@given(_candidates(), st.integers(0, 100))
@settings(max_examples=100, deadline=None)
def test_a_weight_counts_as_so_many_equal_queries(candidates, seed):
    similarity, right, sources = candidates
    weights = np.random.default_rng(seed).integers(0, 3, sources.max() + 1)
    times = weights[sources]
    if not right[times > 0].any():
        return
    repeated = np.repeat(similarity, times, axis=0), np.repeat(right, times, axis=0)
    whole = scores.rank(similarity, right, sources)
    again = scores.rank(*repeated, np.unique(np.repeat(sources, times), return_inverse=True)[1])
    column = weights[:, None].astype(float)
    assert scores.micro_ap(whole, column)[0] == pytest.approx(scores.micro_ap(again)[0])
    assert scores.recall_at_precision(whole, column)[0][0] == pytest.approx(scores.recall_at_precision(again)[0][0])


def test_the_threshold_is_the_least_score_that_is_found():
    similarity = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    right = np.array([[True, False], [False, True], [False, False]])
    ranking = scores.rank(similarity, right, np.arange(3))
    assert scores.micro_ap(ranking)[0] == 1
    assert [value[0] for value in scores.recall_at_precision(ranking)] == [1.0, 0.8]
    wrong = scores.rank(similarity, ~right & (right.any(axis=1, keepdims=True)), np.arange(3))
    assert [value[0] for value in scores.recall_at_precision(wrong)] == [0.0, np.inf]


def test_the_interval_holds_the_value_and_narrows_with_more_pictures():
    def told(num):
        rng = np.random.default_rng(0)
        similarity = rng.random((num, 20))
        truth = rng.integers(0, 20, num)
        similarity[np.arange(num), truth] += rng.random(num)
        right = truth[:, None] == np.arange(20)
        return scores.figures(scores.rank(similarity, right, np.arange(num)))

    few, many = told(20), told(500)
    for one in (few, many):
        assert one["micro_ap_low"] < one["micro_ap"] < one["micro_ap_high"]
    assert many["micro_ap_high"] - many["micro_ap_low"] < few["micro_ap_high"] - few["micro_ap_low"]


def test_what_cannot_be_ranked_is_refused():
    similarity = np.zeros((2, 3))
    with pytest.raises(ValueError, match="no query has a reference"):
        scores.rank(similarity, np.zeros((2, 3), bool), np.arange(2))
    with pytest.raises(ValueError, match="not finite"):
        scores.rank(similarity + np.nan, np.ones((2, 3), bool), np.arange(2))
