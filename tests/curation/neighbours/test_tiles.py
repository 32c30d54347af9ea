import numpy as np
import pytest

from curation.neighbours.similarity import pair_similarities
from curation.neighbours.tiles import between, within
from tests.curation.neighbours.planted import planted


def brute(a, b, threshold):
    left, right = (side.ravel() for side in np.indices((len(a), len(b))))
    similarity = pair_similarities(a[left], b[right])
    above = similarity > np.float32(threshold)
    return left[above], right[above], similarity[above]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("threshold", [-0.1, 0.01, 0.6])
def test_finds_exactly_the_pairs_that_brute_force_finds(dtype, threshold):
    vectors = planted(500, 48, seed=1).astype(dtype)
    left, right, similarity = brute(vectors, vectors, threshold)
    upper = left < right
    found = within(vectors, threshold)
    np.testing.assert_array_equal(found.left, left[upper])
    np.testing.assert_array_equal(found.right, right[upper])
    np.testing.assert_array_equal(found.similarity, similarity[upper])

    a, b = vectors[:137], vectors[137:]
    for expected, got in zip(brute(a, b, threshold), vars(between(a, b, threshold)).values(), strict=True):
        np.testing.assert_array_equal(got, expected)
