"""The k most similar rows of every query: products of matrices find candidates, and what lands in a table is computed.

Vectors are rounded to what this machine multiplies fast, and the error of a product has a bound. So rows that may be
among the k most similar are told from those that are not; the former alone are scored exactly, and ordered. The result
depends on the vectors and on nothing else.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from curation.neighbours.compute import in_order
from curation.neighbours.finite import refuse_non_finite
from curation.neighbours.join import group
from curation.neighbours.shortlist import Shortlists
from curation.neighbours.similarity import similarities_of_rows
from curation.neighbours.tiles import BLOCK_ROWS, Operand, filled, margin

_QUERIES = 65_536  # searched for in one pass over the base; results depend on none of these
_TILE_ROWS = 65_536  # of the base, rounded at once
_VISITORS = 256  # queries of one thread that look in a part, on average


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

    @classmethod
    def joined(cls, parts: Sequence["Matches"]) -> "Matches":
        """All matches of some parts in their order; of no parts there are none."""
        query, row, similarity = (
            np.concatenate([np.empty(0, dtype), *(getattr(part, name) for part in parts)])
            for name, dtype in (("query", np.int64), ("row", np.int64), ("similarity", np.float32))
        )
        return cls(query, row, similarity)

    def rank(self) -> np.ndarray:
        """[m] int64: 1 for a query's best row."""
        return np.arange(len(self)) - np.searchsorted(self.query, self.query) + 1


def best(parts: Sequence[Matches], k: int) -> Matches:
    """The k best matches of every query among all parts, whose rows are distinct and of one numbering."""
    joined = Matches.joined(parts)
    order = _ranking(joined.query, joined.row, joined.similarity)
    ordered = Matches(joined.query[order], joined.row[order], joined.similarity[order])
    kept = ordered.rank() <= k
    return Matches(ordered.query[kept], ordered.row[kept], ordered.similarity[kept])


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


def _ranking(query: np.ndarray, row: np.ndarray, similarity: np.ndarray) -> np.ndarray:
    """``lexsort((row, -similarity, query))``, by one sort of whole numbers and another of what is tied."""
    bits = (similarity + np.float32(0)).view(np.int32)  # that makes -0 to 0
    key = (query << 32) - (bits ^ ((bits >> 31) & 0x7FFFFFFF))  # floats in the order of whole numbers
    order = np.argsort(key)
    equal = np.diff(key[order]) == 0
    tied = np.flatnonzero(np.append(equal, False) | np.append(False, equal))
    order[tied] = order[tied][np.lexsort((row[order[tied]], key[order[tied]]))]
    return order


@dataclass(frozen=True)
class Parts:
    """Base rows in parts, of which a query looks in some.

    Attributes:
        bounds: [p + 1] int64: part i has the rows from bound i to bound i + 1.
        looked_in: [q, m] int32, the parts that each query looks in, none twice.
        names: [n] int64, distinct: what rows are called in the result, and by which ties are broken.
    """

    bounds: np.ndarray
    looked_in: np.ndarray
    names: np.ndarray

    @property
    def num_parts(self) -> int:
        """Number of parts."""
        return len(self.bounds) - 1


def nearest(
    base: np.ndarray, queries: np.ndarray, k: int, alive: np.ndarray | None = None, parts: Parts | None = None
) -> Matches:
    """The k most similar base rows of every query.

    Args:
        base: [n, d] vectors, float16 or float32, also a memory map; read in order, once for 65,536 queries.
        queries: [q, d] vectors of the same dtype.
        k: neighbours per query; all rows where there are fewer.
        alive: [n] bool, rows that may be found; all by default.
        parts: that queries look in; None: every query looks at all rows.

    Raises:
        ValueError: ``k`` is below 1, or a vector is not finite.
    """
    if k < 1:
        raise ValueError(f"k {k}: give 1 or more neighbours a query")
    refuse_non_finite(queries, "the queries")
    found: list[Matches] = []
    for start in range(0, len(queries), _QUERIES):
        found += _in_one_pass(base, queries, range(start, min(start + _QUERIES, len(queries))), k, alive, parts)
    return Matches.joined(found)


def _in_one_pass(
    base: np.ndarray, queries: np.ndarray, some: range, k: int, alive: np.ndarray | None, parts: Parts | None
) -> list[Matches]:
    size, bounds, looked_in = BLOCK_ROWS, np.array([0, len(base)]), np.zeros(1, np.int64)
    if parts is not None:
        bounds, looked_in = parts.bounds, np.unique(parts.looked_in[some.start : some.stop])
        size = max(size, _VISITORS * parts.num_parts // parts.looked_in.shape[1])
    size = min(size, -(-len(some) // torch.get_num_threads()))

    def batch(start: int) -> _Batch:
        return _Batch(base, queries, range(start, min(start + size, some.stop)), k, parts)

    def block(place: tuple[int, range]) -> _Block:
        part, rows = place
        return _Block.of(part, base[rows.start : rows.stop], np.arange(rows.start, rows.stop), alive)

    batches = list(in_order(batch, some[::size]))
    for tile in _tiles(bounds, looked_in):
        blocks = [one for one in in_order(block, tile) if len(one.rows)]
        for _ in in_order(lambda one: one.look_at(blocks), batches):  # noqa: B023  (done before the next tile)
            pass
    return list(in_order(_Batch.matches, batches))


def _tiles(bounds: np.ndarray, looked_in: np.ndarray) -> Iterator[list[tuple[int, range]]]:
    """Blocks of parts that some query looks in, each its part and its rows, some 65,536 rows together."""
    tile, num_rows = [], 0
    for part in looked_in:
        for start in range(bounds[part], bounds[part + 1], BLOCK_ROWS):
            rows = range(start, min(start + BLOCK_ROWS, bounds[part + 1]))
            tile.append((part, rows))
            num_rows += len(rows)
            if num_rows >= _TILE_ROWS:
                yield tile
                tile, num_rows = [], 0
    yield tile


@dataclass(frozen=True)
class _Block:
    """Living rows of one part, rounded."""

    part: int
    rows: np.ndarray
    operand: Operand

    @classmethod
    def of(cls, part: int, vectors: np.ndarray, rows: np.ndarray, alive: np.ndarray | None) -> "_Block":
        if alive is not None:
            living = alive[rows]
            vectors, rows = vectors[living], rows[living]
        try:
            return cls(part, rows, Operand.of(vectors))
        except ValueError:
            refuse_non_finite(vectors, f"the base's rows from {rows[0]} on" if rows[0] else "the base")
            raise


class _Batch:
    """Queries that one thread searches for at a time."""

    def __init__(self, base: np.ndarray, queries: np.ndarray, some: range, k: int, parts: Parts | None) -> None:
        self._base, self._queries, self._start, self._k = base, queries[some.start : some.stop], some.start, k
        self._operand = Operand.of(self._queries)
        self._names = self._visitors = None
        if parts is not None:
            self._names = parts.names
            self._visitors = group(parts.looked_in[some.start : some.stop], parts.num_parts)
        self._lists = Shortlists(len(some), k, self._best)

    def look_at(self, blocks: Sequence[_Block]) -> None:
        """Offer the rows of blocks to the queries that look in their parts."""
        for block in blocks:
            values, error = self._operand.values, margin(self._operand, block.operand)
            if self._visitors is None:
                products = values @ block.operand.values.T
                self._lists.offer(products.cpu(), np.arange(len(self._queries)), block.rows, error)
                continue
            queries, bounds = self._visitors
            for start in range(bounds[block.part], bounds[block.part + 1], BLOCK_ROWS):
                visitors = queries[start : min(start + BLOCK_ROWS, bounds[block.part + 1])]
                wanted = np.zeros(filled(len(visitors)), np.int64)
                wanted[: len(visitors)] = visitors
                rows = torch.index_select(values, 0, torch.from_numpy(wanted).to(values.device))
                self._lists.offer((rows @ block.operand.values.T).cpu(), visitors, block.rows, error)

    def matches(self) -> Matches:
        """The k best of what was offered."""
        found = best([self._scored(*self._lists.pairs())], self._k)
        return Matches(found.query + self._start, found.row, found.similarity)

    def _best(self, query: int, rows: np.ndarray) -> np.ndarray:
        scored = self._scored(np.full(len(rows), query), rows)
        return np.lexsort((scored.row, -scored.similarity))[: self._k]

    def _scored(self, query: np.ndarray, row: np.ndarray) -> Matches:
        similarity = similarities_of_rows(self._queries, self._base, query, row)
        return Matches(query, row if self._names is None else self._names[row], similarity)
