"""The k most similar rows of every query, exactly: FAISS finds candidates, and what lands in a table is computed again.

FAISS multiplies in float32 by whichever kernel suits the batch and the threads, so its scores differ in their
last bits from run to run. It is asked for a few neighbours more than wanted, and for more still where the k-th
is too close to the last fetched; candidates are scored anew and ordered. So the result depends on the vectors alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from curation.neighbours.finite import refuse_non_finite
from curation.neighbours.similarity import similarities_of_rows

_OVER_FETCH = 8  # neighbours asked for beyond k
_ROUNDING = 1e-4  # above any difference between FAISS's score of unit vectors and the exact one
_BATCH_BYTES = 2**28  # of candidates that wait for their exact score
_CANDIDATE_BYTES = 80  # score, row and mask by FAISS, then query, row, similarity and their order
_TILE_ROWS = 65_536  # base rows that are float32 at once; results do not depend on it


@dataclass(frozen=True)
class Matches:
    """Base rows by query, best first, ties by the lower row.

    Attributes:
        query: [m] int64, ascending.
        row: [m] int64.
        similarity: [m] float32, as ``pair_similarities`` computes it.
    """

    query: np.ndarray
    row: np.ndarray
    similarity: np.ndarray

    def __len__(self) -> int:
        return len(self.query)

    def rank(self) -> np.ndarray:
        """[m] int64: 1 for a query's best row."""
        return np.arange(len(self)) - np.searchsorted(self.query, self.query) + 1


def best(parts: Sequence[Matches], k: int) -> Matches:
    """The k best matches of every query among all parts, whose rows are distinct and of one numbering."""
    query, row, similarity = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("query", "row", "similarity")
    )
    order = np.lexsort((row, -similarity, query))
    ordered = Matches(query[order], row[order], similarity[order])
    kept = ordered.rank() <= k
    return Matches(ordered.query[kept], ordered.row[kept], ordered.similarity[kept])


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
    found = []
    for start in range(0, len(base), _TILE_ROWS):
        tile = np.asarray(base[start : start + _TILE_ROWS])
        rows = np.arange(start, start + len(tile))
        if alive is not None:
            living = alive[start : start + _TILE_ROWS]
            tile, rows = tile[living], rows[living]
        refuse_non_finite(tile, f"the base's rows from {start} on" if start else "the base")
        one = _of_tile(tile, queries, k)
        found.append(Matches(one.query, rows[one.row], one.similarity))
        if len(found) > 1:
            found = [best(found, k)]
    return found[0] if found else ranked(base, queries, np.empty(0, np.int64), np.empty(0, np.int64), k)


def ranked(base: np.ndarray, queries: np.ndarray, query: np.ndarray, row: np.ndarray, k: int) -> Matches:
    """The k best of given candidates, by their exact similarity.

    Args:
        base: [n, d] vectors.
        queries: [q, d] vectors of the same dtype.
        query: [c] int64 rows of ``queries``.
        row: [c] int64 rows of ``base``; no candidate twice.
        k: matches per query that stay.
    """
    return best([Matches(query, row, similarities_of_rows(queries, base, query, row))], k)


def _of_tile(tile: np.ndarray, queries: np.ndarray, k: int) -> Matches:
    whole, wanted = _float32(tile), _float32(queries)
    none = np.empty(0, np.int64)
    k = min(k, len(tile))
    found, open_, fetch = [Matches(none, none, np.empty(0, np.float32))], np.arange(len(queries)), k + _OVER_FETCH
    while k and len(open_):
        fetch = min(fetch, len(tile))
        still_open = [none]
        size = max(1, _BATCH_BYTES // (_CANDIDATE_BYTES * fetch))
        for start in range(0, len(open_), size):
            batch = open_[start : start + size]
            scores, rows = _inner_product_search(wanted[batch], whole, fetch)
            likely = scores >= scores[:, k - 1 : k] - 2 * _ROUNDING
            query, column = np.nonzero(likely)
            matches = ranked(tile, queries, batch[query], rows[query, column], k)
            last = matches.similarity.reshape(len(batch), k)[:, -1]
            done = (last > scores[:, -1] + _ROUNDING) | (fetch == len(tile))
            found.append(_of_queries(matches, batch[done]))
            still_open.append(batch[~done])
        open_, fetch = np.concatenate(still_open), 2 * fetch
    return best(found, k)


def _of_queries(matches: Matches, queries: np.ndarray) -> Matches:
    kept = np.isin(matches.query, queries)
    return Matches(matches.query[kept], matches.row[kept], matches.similarity[kept])


def _inner_product_search(queries: np.ndarray, base: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows [q, k] of FAISS's brute force, on the first GPU where faiss-gpu is installed."""
    faiss = load_faiss()
    if faiss.get_num_gpus():
        return faiss.knn_gpu(faiss.StandardGpuResources(), queries, base, k, metric=faiss.METRIC_INNER_PRODUCT)
    return faiss.knn(queries, base, k, metric=faiss.METRIC_INNER_PRODUCT)


def _float32(vectors: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(vectors, np.float32)


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
