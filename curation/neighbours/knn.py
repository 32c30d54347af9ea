"""The k most similar rows of every query, exactly: FAISS finds candidates, and what lands in a table is computed again.

FAISS multiplies in float32 by whichever kernel suits the batch and the threads, so its scores differ in their
last bits from run to run. It is asked for a few neighbours more than wanted, and for more still where the k-th
is too close to the last fetched; candidates are scored anew and ordered. So the result depends on the vectors alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curation.neighbours.similarity import pair_similarities, similarities_of_rows

_OVER_FETCH = 8  # neighbours asked for beyond k
_ROUNDING = 1e-4  # above any difference between FAISS's score of unit vectors and the exact one
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
        ValueError: FAISS is not installed.
    """
    found = []
    for start in range(0, len(base), _TILE_ROWS):
        tile = np.asarray(base[start : start + _TILE_ROWS])
        rows = np.arange(start, start + len(tile))
        if alive is not None:
            living = alive[start : start + _TILE_ROWS]
            tile, rows = tile[living], rows[living]
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


def build(vectors: np.ndarray) -> Any:
    """Exact inner-product index over [n, d] vectors of unit length.

    Raises:
        ValueError: FAISS is not installed.
    """
    index = load_faiss().IndexFlatIP(vectors.shape[1])
    index.add(_float32(vectors))
    return index


def save(index: Any, path: str | Path) -> None:
    """Write an index to a local file."""
    load_faiss().write_index(index, str(path))


def load(path: str | Path) -> Any:
    """Read an index that ``save`` wrote, memory-mapped where its kind allows.

    Raises:
        ValueError: the file is missing or is no index.
    """
    faiss = load_faiss()
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
        found, scores, last = _ranked_by(index, base, queries[open_], fetch)
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


def _ranked_by(
    index: Any, base: np.ndarray, queries: np.ndarray, fetch: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows and exact similarities of the ``fetch`` neighbours FAISS gives, best first, and FAISS's last score."""
    scores, rows = index.search(_float32(queries), fetch)
    rows.sort(axis=1)  # so that a stable sort by similarity leaves ties in the order of rows
    query, row = np.repeat(np.arange(len(queries)), fetch), rows.ravel()
    exact = np.empty(len(row), np.float32)
    for start in range(0, len(row), 65536):
        part = slice(start, start + 65536)
        exact[part] = pair_similarities(queries[query[part]], base[row[part]])
    exact = exact.reshape(rows.shape)
    order = np.argsort(-exact, axis=1, kind="stable")
    return np.take_along_axis(rows, order, 1), np.take_along_axis(exact, order, 1), scores[:, -1]


def _of_tile(tile: np.ndarray, queries: np.ndarray, k: int) -> Matches:
    whole, wanted = _float32(tile), _float32(queries)
    k = min(k, len(tile))
    found, open_, fetch = [], np.arange(len(queries)), k + _OVER_FETCH
    while k and len(open_):
        fetch = min(fetch, len(tile))
        scores, rows = _inner_product_search(wanted[open_], whole, fetch)
        likely = scores >= scores[:, k - 1 : k] - 2 * _ROUNDING
        query, column = np.nonzero(likely)
        matches = ranked(tile, queries, open_[query], rows[query, column], k)
        last = matches.similarity.reshape(len(open_), k)[:, -1]
        done = (last > scores[:, -1] + _ROUNDING) | (fetch == len(tile))
        found.append(_of_queries(matches, open_[done]))
        open_, fetch = open_[~done], 2 * fetch
    none = np.empty(0, np.int64)
    return best(found, k) if found else Matches(none, none, np.empty(0, np.float32))


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
