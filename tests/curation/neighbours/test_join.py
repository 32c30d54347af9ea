import numpy as np
import pytest

from curation.neighbours.join import Exact, Spill, join
from curation.neighbours.tiles import Pairs, within
from tests.curation.neighbours.planted import planted


def whole(*args, **options):
    return Pairs.concatenate(list(join(*args, **options)))


def as_set(pairs):
    return set(zip(pairs.left.tolist(), pairs.right.tolist(), pairs.similarity.tolist(), strict=True))


def test_exact_is_one_tile():
    vectors = planted(700, 32, seed=2)
    assert as_set(whole(vectors, 0.6, method=Exact())) == as_set(within(vectors, 0.6))


def test_spill_gives_each_pair_once_and_only_true_ones():
    vectors = planted(2000, 32, seed=3)
    found, exact = whole(vectors, 0.6, method=Spill(num_lists=20, spill=4)), within(vectors, 0.6)
    assert len(as_set(found)) == len(found)
    assert as_set(found) <= as_set(exact)
    assert len(found) > 0.8 * len(exact)


@pytest.mark.parametrize("k", [1, 2])
def test_k_keeps_what_is_near_to_either_side(k):
    vectors = planted(300, 24, seed=4)
    similarity = np.full((300, 300), -np.inf, np.float32)
    exact = within(vectors, 0.5)
    similarity[exact.left, exact.right] = similarity[exact.right, exact.left] = exact.similarity
    near = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    expected = {(min(i, j), max(i, j)) for i in range(300) for j in near[i] if similarity[i, j] > -np.inf}
    assert {pair[:2] for pair in as_set(whole(vectors, 0.5, k=k))} == expected
