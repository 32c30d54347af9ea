"""Search in a base too large for one index: shards that are built once, searched one by one, and merged.

A shard holds the vectors of some images: the pool's at one time, or those of one crawl snapshot. It is searched whole
(exact), in the lists that are nearest to a query, or through codes of what is in these (IVF-PQ). The quantiser or
codebook is trained once and frozen, so a later snapshot is one more shard and no earlier one changes; what is taken
down is marked dead and passed over. Merged results are the same for any way of sharding, save those by codes, which
have candidates from each shard.
"""

import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from curation.neighbours import faiss_knn, knn
from curation.neighbours.finite import refuse_non_finite
from curation.neighbours.knn import Matches, best
from curation.neighbours.lists import Lists
from curation.neighbours.product_codes import Codebook, Codes
from curation.neighbours.quantiser import Quantiser

_IDS, _VECTORS, _ALIVE, _TRAINED = "ids.npy", "vectors.npy", "alive.npy", "trained.txt"


@dataclass(frozen=True)
class Shard:
    """Images that are searched together.

    Attributes:
        ids: [n] bytes, ascending.
        vectors: [n, d] float16, mapped into memory; in the order of the ids, or list by list.
        alive: [n] bool by id, False for what was taken down; None where nothing was.
        lists: that the vectors lie in.
        codes: of the vectors; where there are neither these nor lists, the search is exact.
    """

    ids: np.ndarray
    vectors: np.ndarray
    alive: np.ndarray | None = None
    lists: Lists | None = None
    codes: Codes | None = None

    def search(self, queries: np.ndarray, k: int, num_probes: int = 16, over_fetch: int = 8) -> Matches:
        """The k most similar living images of every query, by the places of their ids.

        Args:
            queries: [q, d] vectors of the shard's dtype.
            k: neighbours a query.
            num_probes: lists searched for each query, where there are lists or codes.
            over_fetch: candidates scored exactly for each neighbour that is wanted, where there are codes.

        Raises:
            ValueError: ``k``, ``num_probes`` or ``over_fetch`` is below 1, or a vector is not finite.
        """
        for name, value in (("num_probes", num_probes), ("over_fetch", over_fetch)):
            if value < 1:
                raise ValueError(f"{name} {value}: give 1 or more")
        if self.lists is not None:
            return self.lists.matches(self.vectors, queries, k, self.alive, num_probes)
        if self.codes is not None:
            return self.codes.matches(self.vectors, queries, k, self.alive, num_probes, over_fetch)
        nearest = faiss_knn.nearest if faiss_knn.sees_gpu() else knn.nearest
        return nearest(self.vectors, queries, k, self.alive)


def write_shard(
    folder: Path, ids: Sequence[str], vectors: np.ndarray, trained: Quantiser | Codebook | None = None
) -> None:
    """Write a shard; equal arguments give equal results.

    Args:
        folder: is made, whole or not at all; a shard in it is replaced.
        ids: ascending and distinct.
        vectors: [n, d] of unit length; kept as float16.
        trained: a quantiser for a search by lists, a codebook for one by codes; None for an exact one.

    Raises:
        ValueError: the ids are not ascending, a vector is not finite as float16, or what was trained is for vectors of
            another length.
    """
    keys = np.asarray(ids, np.bytes_)
    if len(keys) and not (keys[1:] > keys[:-1]).all():
        raise ValueError("ids of a shard must be ascending and distinct; sort them first")
    halves = np.asarray(vectors, "<f2")
    refuse_non_finite(halves, f"the vectors of {folder.name}")
    part = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"
    part.mkdir(parents=True)
    try:
        if isinstance(trained, Quantiser):
            lists = Lists.of(halves, trained)
            lists.write(part)
            halves = halves[lists.rows]
        elif isinstance(trained, Codebook):
            Codes.of(halves, trained).write(part)
        np.save(part / _IDS, keys, allow_pickle=False)
        np.save(part / _VECTORS, halves, allow_pickle=False)
        (part / _TRAINED).write_text(_name(trained))
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def read_shard(folder: Path, trained: Quantiser | Codebook | None = None) -> Shard:
    """Map a shard into memory.

    Args:
        folder: of the shard.
        trained: what it was written with.

    Raises:
        ValueError: there is no whole shard, or it was written with something else.
    """
    lists = codes = None
    try:
        ids, vectors = (np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in (_IDS, _VECTORS))
        alive = np.load(folder / _ALIVE, allow_pickle=False) if (folder / _ALIVE).exists() else None
        written, read = (folder / _TRAINED).read_text(), _name(trained)
        if isinstance(trained, Quantiser) and written == read:
            lists = Lists.read(folder, trained)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}: no shard can be read there; run the stage that writes it again") from error
    if written != read:
        raise ValueError(
            f"{folder}: written with {written} and read with {read}; read it with what it was written with, or write "
            "it again"
        )
    if isinstance(trained, Codebook):
        codes = Codes.read(folder, trained)
    return Shard(ids, vectors, alive, lists, codes)


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


def search_shards(
    shards: Sequence[Shard], queries: np.ndarray, k: int, num_probes: int = 16, over_fetch: int = 8
) -> Found:
    """The k most similar images of every query among all shards, which share no image; see :meth:`Shard.search`."""
    parts = [(shard, shard.search(queries, k, num_probes, over_fetch)) for shard in shards]
    if len(parts) == 1:
        [(shard, one)] = parts
        return Found(one.query, shard.ids[one.row], one.similarity)
    rows = [np.unique(one.row, return_inverse=True) for _, one in parts]
    held = [np.empty(0, "S1"), *(shard.ids[mine] for (shard, _), (mine, _) in zip(parts, rows, strict=True))]
    ids, place = np.unique(np.concatenate(held), return_inverse=True)
    starts = np.cumsum([len(mine) for mine in held])  # one numbering of all that was found, in the order of the ids
    numbered = [
        Matches(one.query, place[start + back], one.similarity)
        for (_, one), (_, back), start in zip(parts, rows, starts, strict=False)
    ]
    merged = best(numbered, k)
    return Found(merged.query, ids[merged.row], merged.similarity)


def _name(trained: Quantiser | Codebook | None) -> str:
    return "nothing trained" if trained is None else f"{type(trained).__name__.lower()} {trained.digest}"
