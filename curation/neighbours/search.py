"""Search in a base too large for one index: shards that are built once, searched one by one, and merged.

A shard holds the vectors of some images: the pool's at one time, or those of one crawl snapshot. It is searched whole
(exact), or in the lists that are nearest to a query (an inverted file); what is looked at is compared exactly. The
quantiser that lists follow from is trained once and frozen, so a later snapshot is one more shard and no earlier one
changes; what is taken down is marked dead and passed over. Merged results are the same for any way of sharding.
"""

import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from curation.neighbours.finite import refuse_non_finite
from curation.neighbours.join import group
from curation.neighbours.knn import Matches, Parts, best, nearest
from curation.neighbours.quantiser import Quantiser

_IDS, _VECTORS, _ALIVE, _QUANTISER = "ids.npy", "vectors.npy", "alive.npy", "quantiser.sha256"
_ROWS, _BOUNDS = "rows.npy", "bounds.npy"


@dataclass(frozen=True)
class Lists:
    """The order of a shard's vectors where it has lists.

    Attributes:
        quantiser: that chooses a vector's list.
        rows: [n] int64, the place of each vector's id among the ids; ascending in a list.
        bounds: [num_lists + 1] int64: list i has the vectors from bound i to bound i + 1.
    """

    quantiser: Quantiser
    rows: np.ndarray
    bounds: np.ndarray


@dataclass(frozen=True)
class Shard:
    """Images that are searched together.

    Attributes:
        ids: [n] bytes, ascending.
        vectors: [n, d] float16, mapped into memory; in the order of the ids, or list by list.
        alive: [n] bool by id, False for what was taken down; None where nothing was.
        lists: None for an exact search.
    """

    ids: np.ndarray
    vectors: np.ndarray
    alive: np.ndarray | None = None
    lists: Lists | None = None

    def search(self, queries: np.ndarray, k: int, num_probes: int = 16) -> Matches:
        """The k most similar living images of every query, by the places of their ids.

        Args:
            queries: [q, d] vectors of the shard's dtype.
            k: neighbours a query.
            num_probes: lists searched for each query, where there are lists.

        Raises:
            ValueError: ``k`` or ``num_probes`` is below 1, or a vector is not finite.
        """
        if num_probes < 1:
            raise ValueError(f"num_probes {num_probes}: give 1 or more lists a query")
        if self.lists is None:
            return nearest(self.vectors, queries, k, self.alive)
        refuse_non_finite(queries, "the queries")
        quantiser, rows = self.lists.quantiser, self.lists.rows
        looked_in = quantiser.nearest(queries, min(num_probes, quantiser.num_lists))
        alive = None if self.alive is None else self.alive[rows]
        return nearest(self.vectors, queries, k, alive, Parts(self.lists.bounds, looked_in, rows))


def write_shard(folder: Path, ids: Sequence[str], vectors: np.ndarray, quantiser: Quantiser | None = None) -> None:
    """Write a shard, in lists where there is a quantiser; equal arguments give equal results.

    Args:
        folder: is made, whole or not at all; a shard in it is replaced.
        ids: ascending and distinct.
        vectors: [n, d] of unit length; kept as float16.
        quantiser: for a search by lists.

    Raises:
        ValueError: the ids are not ascending, a vector is not finite as float16, or the quantiser is for vectors of
            another length.
    """
    keys = np.asarray(ids, np.bytes_)
    if len(keys) and not (keys[1:] > keys[:-1]).all():
        raise ValueError("ids of a shard must be ascending and distinct; sort them first")
    halves = np.asarray(vectors, "<f2")
    refuse_non_finite(halves, f"the vectors of {folder.name}")
    arrays = {_IDS: keys, _VECTORS: halves}
    if quantiser is not None:
        rows, bounds = group(quantiser.nearest(halves, 1), quantiser.num_lists)
        arrays |= {_VECTORS: halves[rows], _ROWS: rows, _BOUNDS: bounds}
    part = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"
    part.mkdir(parents=True)
    try:
        for name, array in arrays.items():
            np.save(part / name, array, allow_pickle=False)
        if quantiser is not None:
            (part / _QUANTISER).write_text(quantiser.digest)
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def read_shard(folder: Path, quantiser: Quantiser | None = None) -> Shard:
    """Map a shard into memory.

    Args:
        folder: of the shard.
        quantiser: that it was written with; None where it was written without.

    Raises:
        ValueError: there is no whole shard, or it was written with another quantiser.
    """
    try:
        ids, vectors = (np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in (_IDS, _VECTORS))
        alive = np.load(folder / _ALIVE, allow_pickle=False) if (folder / _ALIVE).exists() else None
        digest = (folder / _QUANTISER).read_text() if (folder / _QUANTISER).exists() else None
        order = None
        if digest is not None:
            order = [np.load(folder / name, allow_pickle=False) for name in (_ROWS, _BOUNDS)]
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}: no shard can be read there; run the stage that writes it again") from error
    wanted = None if quantiser is None else quantiser.digest
    if digest != wanted:
        names = [f"quantiser {one[:16]}" if one else "no quantiser" for one in (digest, wanted)]
        raise ValueError(
            f"{folder}: written with {names[0]} and read with {names[1]}; read it with what it was written with, or "
            "write it again"
        )
    lists = None if quantiser is None or order is None else Lists(quantiser, *order)
    return Shard(ids, vectors, alive, lists)


def mark_dead(folder: Path, ids: Sequence[str]) -> int:
    """Take images down from a shard: they are passed over from the next reading on.

    Args:
        folder: of the shard.
        ids: what goes; those of other shards do not matter.

    Returns:
        how many of the shard's images are dead now.
    """
    keys = np.load(folder / _IDS, mmap_mode="r", allow_pickle=False)
    alive = ~np.isin(keys, np.asarray(ids, np.bytes_))
    if (folder / _ALIVE).exists():
        alive &= np.load(folder / _ALIVE, allow_pickle=False)
    part = folder / f".{uuid.uuid4().hex}.{_ALIVE}"
    np.save(part, alive, allow_pickle=False)
    part.replace(folder / _ALIVE)
    return int((~alive).sum())


@dataclass(frozen=True)
class Found:
    """Images by query, best first, ties by the lower id: ``query`` [m] int64, ``ids`` [m] bytes, ``similarity`` [m]."""

    query: np.ndarray
    ids: np.ndarray
    similarity: np.ndarray


def search_shards(shards: Sequence[Shard], queries: np.ndarray, k: int, num_probes: int = 16) -> Found:
    """The k most similar images of every query among all shards, which share no image; see :meth:`Shard.search`."""
    parts = [(shard, shard.search(queries, k, num_probes)) for shard in shards]
    if len(parts) == 1:
        [(shard, one)] = parts
        return Found(one.query, shard.ids[one.row], one.similarity)
    rows = [np.unique(one.row, return_inverse=True) for _, one in parts]
    held = [np.empty(0, "S1"), *(shard.ids[mine] for (shard, _), (mine, _) in zip(parts, rows, strict=True))]
    ids, place = np.unique(np.concatenate(held), return_inverse=True)
    starts = np.cumsum([len(mine) for mine in held])  # one numbering of all that was found, in the order of the ids
    numbered = [Matches(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))]
    for (_, one), (_, back), start in zip(parts, rows, starts, strict=False):
        numbered.append(Matches(one.query, place[start + back], one.similarity))
    merged = best(numbered, k)
    return Found(merged.query, ids[merged.row], merged.similarity)
