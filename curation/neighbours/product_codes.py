"""IVF-PQ: codes of a few bytes tell which vectors may be among the most similar, and those alone are read and scored.

A query looks in the lists nearest to it. FAISS compares it with the codes there; the best candidates are scored
exactly. Results depend on the query, on the codebook, and on what lies in the shard.
"""

import hashlib
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from curation.neighbours.candidates import best_rows
from curation.neighbours.compute import in_order
from curation.neighbours.faiss_knn import load_faiss
from curation.neighbours.finite import refuse_non_finite
from curation.neighbours.knn import Matches
from curation.neighbours.quantiser import Quantiser
from curation.neighbours.similarity import similarities_of_rows

_INDEX = "codes.faiss"
_NUM_CODES = 256  # values of a byte
_PQ_ROUNDS = 12
_ENCODE_ROWS = 65_536
_QUERY_ROWS = 256  # that a thread searches for at a time; results do not depend on it


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
class Codes:
    """The codes of a shard's vectors.

    Attributes:
        codebook: that they are of.
        index: FAISS's IVF-PQ, its rows in the order of the ids.
    """

    codebook: Codebook
    index: Any

    @classmethod
    def of(cls, vectors: np.ndarray, codebook: Codebook) -> "Codes":
        """Encode vectors [n, d].

        Raises:
            ValueError: the codebook is for vectors of another length.
        """
        if vectors.shape[1] != codebook.dim:
            raise ValueError(f"vectors have length {vectors.shape[1]} and the codebook's {codebook.dim}; train another")
        faiss, index = load_faiss(), codebook.empty_index()
        for start in range(0, len(vectors), _ENCODE_ROWS):
            part = np.array(vectors[start : start + _ENCODE_ROWS], np.float32, order="C")
            rows = np.arange(start, start + len(part), dtype=np.int64)
            lists = codebook.quantiser.nearest(part, 1)[:, 0].astype(np.int64)
            index.add_core(len(part), faiss.swig_ptr(part), faiss.swig_ptr(rows), faiss.swig_ptr(lists))
        return cls(codebook, index)

    def write(self, folder: Path) -> None:
        """Write what :meth:`read` reads; equal codes give equal bytes."""
        faiss = load_faiss()
        coarse, none = self.index.quantizer, faiss.IndexFlatIP(self.codebook.dim)
        self.index.quantizer = none  # the codebook's file holds the centroids
        faiss.write_index(self.index, str(folder / _INDEX))
        self.index.quantizer = coarse

    @classmethod
    def read(cls, folder: Path, codebook: Codebook) -> "Codes":
        """Map the codes of a shard into memory.

        Raises:
            ValueError: FAISS cannot read them, or is not installed.
        """
        faiss = load_faiss()
        from faiss.class_wrappers import add_to_referenced_objects

        try:
            held = faiss.read_index(str(folder / _INDEX), faiss.IO_FLAG_MMAP)
        except RuntimeError as error:
            raise ValueError(f"{folder}: its codes cannot be read; run the stage that writes it again") from error
        index = codebook.empty_index()
        index.replace_invlists(held.invlists, False)
        index.ntotal = held.ntotal
        add_to_referenced_objects(index, held)  # whose lists they are
        return cls(codebook, index)

    def matches(
        self,
        vectors: np.ndarray,
        queries: np.ndarray,
        k: int,
        alive: np.ndarray | None,
        num_probes: int,
        over_fetch: int,
    ) -> Matches:
        """The k most similar living rows of every query, of those that its codes call nearest.

        Args:
            vectors: [n, d] float16, in the order of the ids.
            queries: [q, d] float16.
            k: neighbours a query.
            alive: [n] bool; None: all.
            num_probes: lists searched for each query.
            over_fetch: candidates scored exactly, for each neighbour that is wanted.

        Raises:
            ValueError: ``k`` is below 1, or a query is not finite.
        """
        if k < 1:
            raise ValueError(f"k {k}: give 1 or more neighbours a query")
        refuse_non_finite(queries, "the queries")
        quantiser = self.codebook.quantiser
        wanted = np.array(queries, np.float32, order="C")
        lists = quantiser.nearest(wanted, min(num_probes, quantiser.num_lists))

        def of_some(start: int) -> Matches:
            some = slice(start, start + _QUERY_ROWS)
            rows = self._candidates(wanted[some], lists[some], k * over_fetch, alive)
            found = best_rows(vectors, np.asarray(queries[some]), rows, k)
            return Matches(found.query + start, found.row, found.similarity)

        return Matches.joined(list(in_order(of_some, range(0, len(queries), _QUERY_ROWS))))

    def _candidates(self, wanted: np.ndarray, lists: np.ndarray, num: int, alive: np.ndarray | None) -> np.ndarray:
        """[q, num] int64, the rows that their codes say are nearest; -1 where there are fewer.

        Every query's codes are scored one by one, so a query's rows do not depend on the others.
        """
        faiss, num_probes = load_faiss(), lists.shape[1]
        each = np.repeat(np.arange(len(wanted)), num_probes)
        to_lists = similarities_of_rows(wanted, self.codebook.centroids, each, lists.ravel()).reshape(lists.shape)
        living = {}
        if alive is not None:
            living["sel"] = faiss.IDSelectorBitmap(np.packbits(alive, bitorder="little"))
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


def _codec(dim: int, num_bytes: int) -> Any:
    return load_faiss().ProductQuantizer(dim, num_bytes, 8)


def _centroids(quantiser: Quantiser) -> np.ndarray:
    """[num_lists, d] float32 of unit length; a single list has none, which are zeros."""
    codes = quantiser.centroids.astype(np.float64)
    norms = np.sqrt((codes * codes).sum(axis=1, keepdims=True))
    return (codes / np.where(norms > 0, norms, 1)).astype(np.float32)
