import numpy as np
import pytest

from curation.neighbours.candidates import best_rows
from curation.neighbours.knn import ranked


def _unit(rng, num, dim):
    vectors = rng.standard_normal((num, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [1, 5, 20, 50])
def test_as_if_all_had_been_scored_exactly(seed, k):
    rng = np.random.default_rng(seed)
    base, queries = _unit(rng, 300, 24), _unit(rng, 11, 24)
    base[rng.integers(0, 300, 100)] = base[0]  # clones: equal similarities across the k-th
    base[rng.integers(0, 300, 20)] *= np.float16(1e-4)  # terms that float16 holds as subnormal numbers
    rows = np.stack([rng.permutation(300)[:20] for _ in queries])
    rows[rng.random(rows.shape) < 0.2] = -1
    query, column = np.nonzero(rows >= 0)
    expected = ranked(base, queries, query, rows[query, column], k)
    found = best_rows(base, queries, rows, k)
    assert found.query.tolist() == expected.query.tolist()
    assert found.row.tolist() == expected.row.tolist()
    assert found.similarity.tobytes() == expected.similarity.tobytes()


def test_without_candidates():
    base = _unit(np.random.default_rng(0), 4, 8)
    assert len(best_rows(base, base, np.empty((4, 0), np.int64), 2)) == 0
    assert len(best_rows(base, base, np.full((4, 3), -1), 2)) == 0
