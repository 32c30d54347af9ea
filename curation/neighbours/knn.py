"""Nearest neighbours by cosine: FAISS finds candidates, and what lands in a table is computed again.

FAISS multiplies in float32 by whichever kernel suits the batch and the threads, so its scores differ in their
last bits from run to run. It is asked for a few neighbours more than wanted, and for more still where the k-th
is too close to the last fetched; ``pair_similarities`` scores and orders them. So the result depends on the
vectors alone.
"""

from pathlib import Path
from typing import Any

import numpy as np

from curation.neighbours.similarity import pair_similarities

_OVER_FETCH = 8  # neighbours asked for beyond k
_ROUNDING = 1e-4  # above any difference between FAISS's score of unit vectors and the exact one
_CHUNK_PAIRS = 65536  # pairs whose vectors are gathered at once


def build(vectors: np.ndarray) -> Any:
    """Exact inner-product index over [n, d] vectors of unit length.

    Raises:
        ValueError: FAISS is not installed.
    """
    index = _faiss().IndexFlatIP(vectors.shape[1])
    index.add(_float32(vectors))
    return index


def save(index: Any, path: str | Path) -> None:
    """Write an index to a local file."""
    _faiss().write_index(index, str(path))


def load(path: str | Path) -> Any:
    """Read an index that ``save`` wrote, memory-mapped where its kind allows.

    Raises:
        ValueError: the file is missing or is no index.
    """
    faiss = _faiss()
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
    except RuntimeError as error:
        raise ValueError(f"{path}: no FAISS index can be read there; run the stage that writes it again") from error


def top_k(index: Any, base: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k most similar base rows of every query.

    Args:
        index: an index over ``base``.
        base: [n, d] vectors; their dtype decides what is compared.
        queries: [q, d] vectors of the same dtype.
        k: neighbours per query; n where that is less.

    Returns:
        rows [q, min(k, n)] int64 and similarities float32, best first, ties by the lower row.
    """
    k = min(k, len(base))
    rows = np.empty((len(queries), k), np.int64)
    similarities = np.empty((len(queries), k), np.float32)
    open_, fetch = np.arange(len(queries)), k + _OVER_FETCH
    while k and len(open_):
        fetch = min(fetch, len(base))
        found, scores, last = _ranked(index, base, queries[open_], fetch)
        rows[open_], similarities[open_] = found[:, :k], scores[:, :k]
        open_ = open_[(scores[:, k - 1] <= last + _ROUNDING) & (fetch < len(base))]
        fetch *= 2
    return rows, similarities


def similar_pairs(
    index: Any, base: np.ndarray, queries: np.ndarray, rows: np.ndarray | None, k: int, threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs above a threshold among the k nearest neighbours of every query (paper, appendix A: k = 64).

    Args:
        index: an index over ``base``.
        base: [n, d] vectors.
        queries: [q, d] vectors of the same dtype.
        rows: [q] the base row that each query is, whose match with itself is dropped; None where the queries
            are from elsewhere.
        k: neighbours per query, itself not counted.
        threshold: pairs with a similarity above it are kept.

    Returns:
        query [m] int64 (position in ``queries``), other [m] int64 (base row), similarity [m] float32, in the
        order of queries, best first, ties by the lower row.
    """
    others, similarities = top_k(index, base, queries, k + (rows is not None))
    is_self = np.zeros(others.shape, bool) if rows is None else others == np.asarray(rows)[:, None]
    place = np.cumsum(~is_self, axis=1)  # 1, 2, ... without the query itself
    query, column = np.nonzero(~is_self & (place <= k) & (similarities > np.float32(threshold)))
    return query, others[query, column], similarities[query, column]


def _ranked(index: Any, base: np.ndarray, queries: np.ndarray, fetch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows and exact similarities of the ``fetch`` neighbours FAISS gives, best first, and FAISS's last score."""
    scores, rows = index.search(_float32(queries), fetch)
    rows.sort(axis=1)  # so that a stable sort by similarity leaves ties in the order of rows
    query, row = np.repeat(np.arange(len(queries)), fetch), rows.ravel()
    exact = np.empty(len(row), np.float32)
    for start in range(0, len(row), _CHUNK_PAIRS):
        part = slice(start, start + _CHUNK_PAIRS)
        exact[part] = pair_similarities(queries[query[part]], base[row[part]])
    exact = exact.reshape(rows.shape)
    order = np.argsort(-exact, axis=1, kind="stable")
    return np.take_along_axis(rows, order, 1), np.take_along_axis(exact, order, 1), scores[:, -1]


def _float32(vectors: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(vectors, np.float32)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ValueError("FAISS is not installed; run: pip install 'openlvd[cpu]' (or [gpu])") from error
    return faiss
