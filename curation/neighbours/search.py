"""Search in a base too large for one index: shards that are built once, searched one by one, and merged.

A shard holds the vectors of some images, sorted by id: the pool's at one time, or those of one crawl snapshot. It is
searched whole (exact), or through an inverted file of product codes (IVF-PQ) whose candidates are scored again with the
vectors themselves. The codebook is trained once and frozen, so a later snapshot is one more shard and no earlier
one changes; what is taken down is marked dead and passed over. Merged results of exact search are the same for any
way of sharding; those of IVF-PQ have candidates from each shard, so the shards belong to the recipe.
"""

import hashlib
import io
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from curation.neighbours.candidates import best_rows
from curation.neighbours.compute import in_order
from curation.neighbours.finite import refuse_non_finite
from curation.neighbours.knn import Matches, best, load_faiss, nearest
from curation.neighbours.quantiser import Quantiser
from curation.neighbours.similarity import similarities_of_rows

_IDS, _VECTORS, _ALIVE, _INDEX, _CODEBOOK = "ids.npy", "vectors.npy", "alive.npy", "codes.faiss", "codebook.sha256"
_NUM_CODES = 256  # values of a byte
_PQ_ROUNDS = 12
_ENCODE_ROWS = 65_536
_QUERY_ROWS = 256  # that a thread searches for at a time; results do not depend on it


@dataclass(frozen=True)
class Probing:
    """How far an IVF-PQ search looks.

    Attributes:
        num_probes: lists searched for each query.
        over_fetch: candidates scored exactly, for each neighbour that is wanted.
    """

    num_probes: int = 16
    over_fetch: int = 8

    def __post_init__(self) -> None:
        for name in ("num_probes", "over_fetch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: give 1 or more")


@dataclass(frozen=True)
class Codebook:
    """A frozen IVF-PQ: lists, and the codes of what is left of a vector without its list's centroid.

    Attributes:
        quantiser: the lists.
        codes: [d, 256] float32; d is parted evenly into as many parts as a vector has bytes.
        num_bytes: of a vector's code.
    """

    quantiser: Quantiser
    codes: np.ndarray
    num_bytes: int

    @classmethod
    def train(cls, sample: np.ndarray, num_lists: int, num_bytes: int, seed: int) -> "Codebook":
        """Learn both from a sample, the same bits for the same sample.

        Args:
            sample: [n, d] vectors of unit length; some 256 a list are enough.
            num_lists: about the square root of the base is usual.
            num_bytes: a divisor of d; memory an image.
            seed: of both k-means.

        Raises:
            ValueError: the sample is too small, has too few vectors that are not zero, or one that is not finite; or d
                is not a multiple of ``num_bytes``.
        """
        dim = sample.shape[1]
        if dim % num_bytes:
            raise ValueError(f"code_bytes {num_bytes} does not divide the dimension {dim}; choose a divisor of it")
        if len(sample) < _NUM_CODES:
            raise ValueError(f"{len(sample)} vectors cannot train {_NUM_CODES} codes; search flat, or give more")
        refuse_non_finite(sample, "the vectors trained on")
        quantiser = Quantiser.train(sample, num_lists, seed)
        codec = _codec(dim, num_bytes)
        codec.cp.seed, codec.cp.niter, codec.cp.min_points_per_centroid = seed, _PQ_ROUNDS, 1
        lists = quantiser.nearest(sample, 1)[:, 0]
        rest = sample.astype(np.float32) - _centroids(quantiser)[lists]
        faiss = load_faiss()
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)  # the sums of a round are then always added in one order
        try:
            codec.train(np.ascontiguousarray(rest))
        finally:
            faiss.omp_set_num_threads(threads)
        codes = faiss.vector_to_array(codec.centroids).reshape(dim, _NUM_CODES)
        return cls(quantiser, codes, num_bytes)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return len(self.codes)

    @cached_property
    def centroids(self) -> np.ndarray:
        """[num_lists, d] float32, those of the lists at unit length."""
        return _centroids(self.quantiser)

    def empty_index(self) -> Any:
        """A FAISS index without vectors; its lists are chosen by the quantiser and not by FAISS."""
        faiss = load_faiss()
        coarse = faiss.IndexFlatIP(self.dim)
        coarse.add(self.centroids)
        num_lists = self.quantiser.num_lists
        index = faiss.IndexIVFPQ(coarse, self.dim, num_lists, self.num_bytes, 8, faiss.METRIC_INNER_PRODUCT)
        codec = _codec(self.dim, self.num_bytes)
        faiss.copy_array_to_vector(np.ascontiguousarray(self.codes.ravel()), codec.centroids)
        index.pq, index.is_trained = codec, True
        return index

    def to_bytes(self) -> bytes:
        """The codebook as one file; equal ones give equal bytes."""
        file = io.BytesIO()
        np.savez(file, centroids=self.quantiser.centroids, codes=self.codes, num_bytes=np.int64(self.num_bytes))
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Codebook":
        """Read what :meth:`to_bytes` wrote.

        Raises:
            ValueError: the bytes are no codebook.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as held:
                return cls(Quantiser(held["centroids"]), held["codes"], int(held["num_bytes"]))
        except Exception as error:  # zipfile and numpy raise a dozen kinds
            raise ValueError(f"not a codebook: {len(data)} bytes; train it again") from error

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the bytes, hex."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


@dataclass(frozen=True)
class Shard:
    """Images that are searched together.

    Attributes:
        ids: [n] bytes, ascending.
        vectors: [n, d] float16, mapped into memory.
        alive: [n] bool, False for what was taken down; None where nothing was.
        index: FAISS's IVF-PQ over the rows; None for an exact search.
        codebook: of that index.
    """

    ids: np.ndarray
    vectors: np.ndarray
    alive: np.ndarray | None = None
    index: Any = None
    codebook: Codebook | None = None

    def search(self, queries: np.ndarray, k: int, probing: Probing | None = None) -> Matches:
        """The k most similar living rows of every query; with an index, those that it finds.

        Args:
            queries: [q, d] vectors of the shard's dtype.
            k: neighbours a query.
            probing: for a shard with an index.

        Raises:
            ValueError: ``k`` is below 1, or a vector is not finite.
        """
        if self.codebook is None:
            return nearest(self.vectors, queries, k, self.alive)
        if k < 1:
            raise ValueError(f"k {k}: give 1 or more neighbours a query")
        refuse_non_finite(queries, "the queries")
        probing = probing or Probing()
        quantiser = self.codebook.quantiser
        wanted = np.array(queries, np.float32, order="C")
        lists = quantiser.nearest(wanted, min(probing.num_probes, quantiser.num_lists))

        def of_some(start: int) -> Matches:
            some = slice(start, start + _QUERY_ROWS)
            rows = self._candidates(wanted[some], lists[some], k * probing.over_fetch)
            found = best_rows(self.vectors, np.asarray(queries[some]), rows, k)
            return Matches(found.query + start, found.row, found.similarity)

        parts = list(in_order(of_some, range(0, len(queries), _QUERY_ROWS)))
        none = Matches(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
        columns = ([getattr(part, name) for part in (none, *parts)] for name in ("query", "row", "similarity"))
        return Matches(*map(np.concatenate, columns))

    def _candidates(self, wanted: np.ndarray, lists: np.ndarray, num: int) -> np.ndarray:
        """[q, num] int64, the rows that their codes say are nearest; -1 where there are fewer.

        Every query's codes are scored one by one, so a query's rows do not depend on the others.
        """
        assert self.codebook is not None
        faiss, num_probes = load_faiss(), lists.shape[1]
        each = np.repeat(np.arange(len(wanted)), num_probes)
        to_lists = similarities_of_rows(wanted, self.codebook.centroids, each, lists.ravel()).reshape(lists.shape)
        living = {}
        if self.alive is not None:
            living["sel"] = faiss.IDSelectorBitmap(np.packbits(self.alive, bitorder="little"))
        options = faiss.SearchParametersIVF(nprobe=num_probes, **living)
        scores, rows = np.empty((len(wanted), num), np.float32), np.empty((len(wanted), num), np.int64)
        arrays = np.ascontiguousarray(wanted), lists.astype(np.int64), to_lists, scores, rows
        x, assigned, coarse, out, labels = (faiss.swig_ptr(array) for array in arrays)
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)  # of this thread: others search for other queries
        try:
            # what faiss wraps for Python takes no options here
            self.index.search_preassigned_c(len(wanted), x, num, assigned, coarse, out, labels, False, options)
        finally:
            faiss.omp_set_num_threads(threads)
        return rows


def write_shard(folder: Path, ids: Sequence[str], vectors: np.ndarray, codebook: Codebook | None = None) -> None:
    """Write a shard, and its index where there is a codebook; equal arguments give equal results.

    Args:
        folder: is made, whole or not at all; a shard in it is replaced.
        ids: ascending and distinct.
        vectors: [n, d] of unit length; kept as float16.
        codebook: for an IVF-PQ.

    Raises:
        ValueError: the ids are not ascending, a vector is not finite as float16, or the codebook is for vectors of
            another length.
    """
    keys = np.asarray(ids, np.bytes_)
    if len(keys) and not (keys[1:] > keys[:-1]).all():
        raise ValueError("ids of a shard must be ascending and distinct; sort them first")
    if codebook is not None and vectors.shape[1] != codebook.dim:
        raise ValueError(f"vectors have length {vectors.shape[1]} and the codebook's {codebook.dim}; train another")
    halves = np.asarray(vectors, "<f2")
    refuse_non_finite(halves, f"the vectors of {folder.name}")
    part = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"
    part.mkdir(parents=True)
    try:
        np.save(part / _IDS, keys, allow_pickle=False)
        np.save(part / _VECTORS, halves, allow_pickle=False)
        if codebook is not None:
            _write_index(part / _INDEX, halves, codebook)
            (part / _CODEBOOK).write_text(codebook.digest)
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _write_index(path: Path, vectors: np.ndarray, codebook: Codebook) -> None:
    faiss, index = load_faiss(), codebook.empty_index()
    for start in range(0, len(vectors), _ENCODE_ROWS):
        part = np.array(vectors[start : start + _ENCODE_ROWS], np.float32, order="C")
        rows = np.arange(start, start + len(part), dtype=np.int64)
        lists = codebook.quantiser.nearest(part, 1)[:, 0].astype(np.int64)
        index.add_core(len(part), faiss.swig_ptr(part), faiss.swig_ptr(rows), faiss.swig_ptr(lists))
    coarse, none = index.quantizer, faiss.IndexFlatIP(codebook.dim)  # the codebook's file holds the centroids
    index.quantizer = none
    faiss.write_index(index, str(path))
    index.quantizer = coarse


def read_shard(folder: Path, codebook: Codebook | None = None) -> Shard:
    """Map a shard into memory.

    Raises:
        ValueError: there is no whole shard, or its codes are another codebook's.
    """
    if codebook is not None and (folder / _INDEX).exists():
        coded_by = (folder / _CODEBOOK).read_text() if (folder / _CODEBOOK).exists() else "unknown"
        if coded_by != codebook.digest:
            raise ValueError(
                f"{folder}: its codes are of codebook {coded_by[:16]}, not {codebook.digest[:16]}; read it with the "
                "one that it was written with, or write it again"
            )
    try:
        ids, vectors = (np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in (_IDS, _VECTORS))
        alive = np.load(folder / _ALIVE, allow_pickle=False) if (folder / _ALIVE).exists() else None
        index = None
        if codebook is not None:
            faiss = load_faiss()
            from faiss.class_wrappers import add_to_referenced_objects

            held = faiss.read_index(str(folder / _INDEX), faiss.IO_FLAG_MMAP)
            index = codebook.empty_index()
            index.replace_invlists(held.invlists, False)
            index.ntotal = held.ntotal
            add_to_referenced_objects(index, held)  # whose lists they are
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{folder}: no shard can be read there; run the stage that writes it again") from error
    return Shard(ids, vectors, alive, index, codebook)


def mark_dead(folder: Path, ids: Sequence[str]) -> int:
    """Take images down from a shard: they are passed over from the next reading on.

    Args:
        folder: of the shard.
        ids: what goes; those of other shards do not matter.

    Returns:
        how many of the shard's images are dead now.
    """
    shard = read_shard(folder)
    alive = np.ones(len(shard.ids), bool) if shard.alive is None else shard.alive
    alive &= ~np.isin(shard.ids, np.asarray(ids, np.bytes_))
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


def search_shards(shards: Sequence[Shard], queries: np.ndarray, k: int, probing: Probing | None = None) -> Found:
    """The k most similar images of every query among all shards, which share no image."""
    parts = [(shard, shard.search(queries, k, probing)) for shard in shards]
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


def _codec(dim: int, num_bytes: int) -> Any:
    return load_faiss().ProductQuantizer(dim, num_bytes, 8)


def _centroids(quantiser: Quantiser) -> np.ndarray:
    """[num_lists, d] float32 of unit length; a single list has none, which are zeros."""
    codes = quantiser.centroids.astype(np.float64)
    norms = np.sqrt((codes * codes).sum(axis=1, keepdims=True))
    return (codes / np.where(norms > 0, norms, 1)).astype(np.float32)
