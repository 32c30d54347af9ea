"""Exact search by FAISS, for a GPU that faiss-gpu sees; the result is that of :func:`curation.neighbours.knn.nearest`.

FAISS multiplies in float32 by whichever kernel suits the batch, so its scores differ in their last bits from run to
run. It is asked for a few neighbours more than wanted; what may be among the best is scored exactly, and a query whose
k-th is too close to the last one fetched is searched for without FAISS.
"""

from typing import Any

import numpy as np

from curation.neighbours import knn
from curation.neighbours.finite import refuse_non_finite
from curation.neighbours.knn import Matches, best, ranked

_OVER_FETCH = 8  # neighbours asked for beyond k
_MOST_FETCHED = 2048  # that FAISS selects on a GPU
_ROUNDING = 1e-4  # above any difference between FAISS's score of unit vectors and the exact one
_BATCH_BYTES = 2**28  # of candidates that wait for their exact score
_CANDIDATE_BYTES = 80  # score, row and mask by FAISS, then query, row, similarity and their order
_TILE_ROWS = 65_536  # base rows that are float32 at once; results do not depend on it


def load_faiss() -> Any:
    """The ``faiss`` module.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise ValueError("FAISS is not installed; run: pip install 'openlvd[cpu]' (or [gpu])") from error
    return faiss


def sees_gpu() -> bool:
    """Whether faiss-gpu is installed and there is a GPU for it."""
    try:
        return load_faiss().get_num_gpus() > 0
    except ValueError:
        return False


def nearest(base: np.ndarray, queries: np.ndarray, k: int, alive: np.ndarray | None = None) -> Matches:
    """The k most similar base rows of every query.

    Args:
        base: [n, d] vectors of unit length, float16 or float32, also a memory map; read once, tile by tile.
        queries: [q, d] vectors of the same dtype.
        k: neighbours per query; all rows where there are fewer.
        alive: [n] bool, rows that may be found; all by default.

    Raises:
        ValueError: ``k`` is below 1, a vector is not finite, or FAISS is not installed.
    """
    if k < 1:
        raise ValueError(f"k {k}: give 1 or more neighbours a query")
    refuse_non_finite(queries, "the queries")
    found, wanted = Matches.joined([]), _float32(queries)
    for start in range(0, len(base), _TILE_ROWS):
        tile = np.asarray(base[start : start + _TILE_ROWS])
        rows = np.arange(start, start + len(tile))
        if alive is not None:
            tile, rows = tile[alive[rows]], rows[alive[rows]]
        refuse_non_finite(tile, f"the base's rows from {start} on" if start else "the base")
        one = _of_tile(tile, queries, wanted, k)
        found = best([found, Matches(one.query, rows[one.row], one.similarity)], k)
    return found


def _of_tile(tile: np.ndarray, queries: np.ndarray, wanted: np.ndarray, k: int) -> Matches:
    k = min(k, len(tile))
    fetch = min(k + _OVER_FETCH, len(tile))
    if not k or fetch > _MOST_FETCHED:
        return knn.nearest(tile, queries, k) if k else Matches.joined([])
    whole, open_ = _float32(tile), [np.empty(0, np.int64)]
    found: list[Matches] = []
    size = max(1, _BATCH_BYTES // (_CANDIDATE_BYTES * fetch))
    for start in range(0, len(queries), size):
        scores, rows = _inner_product_search(wanted[start : start + size], whole, fetch)
        done = (scores[:, k - 1] - scores[:, -1] > 2 * _ROUNDING) | (fetch == len(tile))
        likely = done[:, None] & (scores >= scores[:, k - 1 : k] - 2 * _ROUNDING)
        query, column = np.nonzero(likely)
        found.append(ranked(tile, queries, start + query, rows[query, column], k))
        open_.append(start + np.flatnonzero(~done))
    left = np.concatenate(open_)
    rest = knn.nearest(tile, queries[left], k)
    return best([*found, Matches(left[rest.query], rest.row, rest.similarity)], k)


def _inner_product_search(queries: np.ndarray, base: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows [q, k] of FAISS's brute force, on the first GPU where there is one."""
    faiss = load_faiss()
    if faiss.get_num_gpus():
        return faiss.knn_gpu(faiss.StandardGpuResources(), queries, base, k, metric=faiss.METRIC_INNER_PRODUCT)
    return faiss.knn(queries, base, k, metric=faiss.METRIC_INNER_PRODUCT)


def _float32(vectors: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(vectors, np.float32)
