import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from evaluation.intervals import mcnemar, wilson


def test_wilson_agrees_with_a_computation_by_hand():
    # 8 of 10 at z = 1.96: centre (0.8 + 0.19208) / 1.38416 = 0.71674,
    # half 1.96 / 1.38416 * sqrt(0.016 + 0.009604) = 0.22658.
    assert wilson(8, 10) == pytest.approx((0.49016, 0.94332), abs=2e-5)
    assert wilson(0, 10) == pytest.approx((0.0, 3.8416 / 13.8416), abs=2e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_agrees_with_scipy_and_holds_the_proportion(case):
    correct, n = case
    low, high = wilson(correct, n)
    expected = binomtest(correct, n).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= low <= correct / n <= high <= 1


@pytest.mark.parametrize(("correct", "n"), [(3, 2), (-1, 2), (0, 0)])
def test_wilson_refuses_what_is_not_a_proportion(correct, n):
    with pytest.raises(ValueError, match=f"{correct} correct of {n}"):
        wilson(correct, n)


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_the_exact_binomial_test(first, second):
    expected = binomtest(first, first + second).pvalue if first + second else 1.0
    assert math.isclose(mcnemar(first, second), expected, rel_tol=1e-9)
