"""The certificate's interval covers the truth as often as it says, also where edges are found or lost together."""

import numpy as np
import pytest

from curation.neighbours.certificate import certify


@pytest.mark.parametrize("together", [False, True])
def test_the_interval_covers_the_true_recall(together):
    rng = np.random.default_rng(0)
    truth, covered, rounds = 0.9, 0, 400
    for _ in range(rounds):
        edges = rng.integers(1, 20, 150)
        found = edges * (rng.random(150) < truth) if together else rng.binomial(edges, truth)
        measured = certify(1000, edges, found)
        assert measured.low <= measured.recall <= measured.high
        covered += measured.low <= truth <= measured.high
    assert covered / rounds > 0.92


def test_copies_of_one_picture_do_not_make_it_sure():
    alone, crowd = certify(10, np.ones(5), np.ones(5)), certify(10, np.full(5, 200), np.full(5, 200))
    assert alone.recall == crowd.recall == 1
    assert crowd.low == pytest.approx(alone.low)
    assert certify(1000, np.ones(500), np.ones(500)).low > 0.99


def test_no_edges_no_claim():
    none = certify(50, np.empty(0), np.empty(0))
    assert none.recall is None
    assert (none.low, none.high) == (0, 1)
    assert "unknown" in str(none)


def test_more_found_than_there_is():
    with pytest.raises(ValueError, match="more edges found"):
        certify(1, np.array([1]), np.array([2]))
