"""The best of many candidates by their exact similarity, most of them told from the best by a quick one."""

import numpy as np

from curation.neighbours.compiled import compiled
from curation.neighbours.halves import widen
from curation.neighbours.knn import Matches, ranked

_ROUNDING = 1e-4  # above any difference between a float32 sum of products of unit vectors and the exact one


def best_rows(base: np.ndarray, queries: np.ndarray, rows: np.ndarray, k: int) -> Matches:
    """The k candidates of every query with the highest similarity.

    A similarity that lands in a table is a float64 sum in one order, which takes several times as long as one in
    float32 in any order. So the latter tells which candidates are too far below the k-th to be among the best.

    Args:
        base: [n, d] float16, also a memory map.
        queries: [q, d] float16 of unit length.
        rows: [q, c] int64 rows of ``base``, -1 for none; no candidate of a query twice.
        k: matches per query that stay.

    Returns:
        The same as ``ranked`` gives of all candidates.
    """
    if not rows.size:
        return Matches.joined([])
    quick = np.empty(rows.shape, np.float32)
    _quick_similarities(_bits(base), np.ascontiguousarray(queries, np.float32), rows, quick)
    if k < rows.shape[1]:
        least = -np.partition(-quick, k - 1, axis=1)[:, k - 1 : k]
        likely = (quick >= least - 2 * _ROUNDING) & (rows >= 0)
    else:
        likely = rows >= 0
    query, column = np.nonzero(likely)
    return ranked(base, queries, query, rows[query, column], k)


def _bits(vectors: np.ndarray) -> np.ndarray:
    assert vectors.dtype == np.float16
    return vectors.view(np.ndarray).view(np.uint16)


@compiled(may_reorder_sums=True)
def _quick_similarities(base: np.ndarray, queries: np.ndarray, rows: np.ndarray, quick: np.ndarray) -> None:
    """Inner products in float32 of queries and rows of float16, given as bits; -inf where there is no row."""
    dim = queries.shape[1]
    exact = np.empty(dim, np.float32)
    for query in range(len(queries)):
        wanted = queries[query]
        for column in range(rows.shape[1]):
            row = rows[query, column]
            if row < 0:
                quick[query, column] = -np.inf
                continue
            widen(base[row], exact)
            total = np.float32(0)
            for i in range(dim):
                total += wanted[i] * exact[i]
            quick[query, column] = total
