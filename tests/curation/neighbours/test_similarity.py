import numpy as np
import pytest

from curation.neighbours.similarity import pair_similarities


@pytest.mark.parametrize("d", [0, 1, 2, 3, 7, 512, 513])
def test_equals_the_inner_product(d):
    a, b = np.random.default_rng(d).standard_normal((2, 50, d)).astype(np.float32)
    exact = [sum(float(x) * float(y) for x, y in zip(r, s, strict=True)) for r, s in zip(a, b, strict=True)]
    np.testing.assert_allclose(pair_similarities(a, b), exact, rtol=1e-6, atol=1e-6)


def test_bits_do_not_depend_on_the_batch():
    a, b = np.random.default_rng(0).standard_normal((2, 10_000, 96)).astype(np.float16)
    whole = pair_similarities(a, b)
    rows = np.random.default_rng(1).permutation(10_000)[:300]
    assert [pair_similarities(a[[r]], b[[r]]).tobytes() for r in rows] == [whole[r].tobytes() for r in rows]
    assert pair_similarities(a[rows], b[rows]).tobytes() == whole[rows].tobytes()
    assert pair_similarities(b, a).tobytes() == whole.tobytes()


def test_shapes():
    with pytest.raises(ValueError, match="one shape"):
        pair_similarities(np.zeros((2, 3)), np.zeros((3, 3)))
