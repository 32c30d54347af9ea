"""FAISS's joins, each with the settings that are best for it: flat, inverted file, big batch search."""

import contextlib
import io
import time
from dataclasses import dataclass

import faiss
import numpy as np
from faiss.contrib.big_batch_search import big_batch_search

from curation.neighbours.quantiser import NUM_ROUNDS, SAMPLE_PER_LIST

NEIGHBOURS = 16 + 1  # of big batch search, the vector itself among them
LIST_FACTORS = (1, 2, 4)  # numbers of lists that are tried, in square roots of the number of vectors
_MOST_PROBES = 128
_CHUNK_QUERIES = 16384
_TRIAL_QUERIES = 2000


@dataclass(frozen=True)
class Setting:
    """An inverted file that reaches a recall on known edges, and how long it is expected to take."""

    num_lists: int
    nprobe: int
    recall: float
    expected_s: float


@dataclass(frozen=True)
class Run:
    """Seconds from the vectors to the edges, scaled to all queries, and the pairs of those that were searched."""

    seconds: float
    left: np.ndarray
    right: np.ndarray


def flat(vectors: np.ndarray, threshold: float, queries: np.ndarray) -> Run:
    """Range search by brute force from some of the vectors, [n, d] float32."""
    start = time.perf_counter()
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    build_s = time.perf_counter() - start
    return _range_search(index, vectors, threshold, queries, build_s)


def inverted_file(vectors: np.ndarray, threshold: float, queries: np.ndarray, setting: Setting, seed: int) -> Run:
    """Train, fill, and search by range from some of the vectors."""
    index, build_s = build(vectors, setting.num_lists, seed)
    index.nprobe = setting.nprobe
    return _range_search(index, vectors, threshold, queries, build_s)


def big_batch(vectors: np.ndarray, threshold: float, queries: np.ndarray, setting: Setting, seed: int) -> Run:
    """Train, fill, and look for the nearest of the queries, usually all, list by list; then apply the threshold."""
    index, build_s = build(vectors, setting.num_lists, seed)
    index.nprobe = setting.nprobe
    start = time.perf_counter()
    everything = len(queries) == len(vectors)
    similarity, other = _big_batch_search(index, vectors if everything else vectors[queries])
    row, column = np.nonzero(similarity > threshold)
    seconds = time.perf_counter() - start
    left, right = queries[row], other[row, column]
    return Run(build_s + seconds * len(vectors) / len(queries), left[left != right], right[left != right])


def tune(vectors: np.ndarray, threshold: float, edges: np.ndarray, recall: float, seed: int) -> dict[str, Setting]:
    """The fastest setting that reaches a recall, of ``inverted_file`` and of ``big_batch``.

    An edge is found where the list of one end is among the ``nprobe`` nearest of the other, from either end; so the
    least ``nprobe`` follows from the lists alone. The time is that of building plus that of some queries, scaled.

    Args:
        vectors: [n, d] float32.
        threshold: of the edges.
        edges: [m, 2] true edges.
        recall: share of them that has to be found.
        seed: of the training.
    """
    generator = np.random.default_rng(seed + 2)
    few = generator.choice(len(vectors), min(_TRIAL_QUERIES, len(vectors)), replace=False)
    tenth = generator.choice(len(vectors), len(vectors) // 10, replace=False)
    best: dict[str, Setting] = {}
    for factor in LIST_FACTORS:
        num_lists = round(factor * len(vectors) ** 0.5)
        index, build_s = build(vectors, num_lists, seed)
        needed = _needed_nprobe(index, vectors, edges)
        index.nprobe = nprobe = int(np.sort(needed)[int(np.ceil(recall * len(edges))) - 1])
        expected = {"ivf": _range_search(index, vectors, threshold, few, build_s).seconds}
        start = time.perf_counter()
        _big_batch_search(index, vectors[tenth])
        expected["bigbatch"] = build_s + 10 * (time.perf_counter() - start)
        print(f"  faiss, {num_lists} lists, nprobe {nprobe}, build {build_s:.1f} s: expected {expected}", flush=True)
        for name, seconds in expected.items():
            if name not in best or seconds < best[name].expected_s:
                best[name] = Setting(num_lists, nprobe, float((needed <= nprobe).mean()), seconds)
        del index
    return best


def build(vectors: np.ndarray, num_lists: int, seed: int) -> tuple[faiss.IndexIVFFlat, float]:
    """A filled ``IndexIVFFlat``, trained on as many vectors and for as many rounds as ours, and the seconds it took."""
    start = time.perf_counter()
    dim = vectors.shape[1]
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, num_lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.niter = NUM_ROUNDS
    index.cp.seed = seed
    index.cp.max_points_per_centroid = SAMPLE_PER_LIST
    sample = np.random.default_rng(seed).permutation(len(vectors))[: num_lists * SAMPLE_PER_LIST]
    index.train(vectors[np.sort(sample)])
    index.add(vectors)
    return index, time.perf_counter() - start


def _big_batch_search(index: faiss.IndexIVFFlat, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a line a list, whatever ``verbose`` says
        return big_batch_search(index, queries, NEIGHBOURS, threaded=1)


def _needed_nprobe(index: faiss.IndexIVFFlat, vectors: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """[m] the least ``nprobe`` that finds each edge from one of its ends."""
    ends, place = np.unique(edges, return_inverse=True)
    left, right = place.reshape(edges.shape).T
    _, lists = index.quantizer.search(vectors[ends], min(_MOST_PROBES, index.nlist))
    needed = np.full(len(edges), _MOST_PROBES + 1)
    for one, two in ((left, right), (right, left)):
        hit = lists[one] == lists[two, :1]
        needed = np.minimum(needed, np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, _MOST_PROBES + 1))
    return needed


def _range_search(
    index: faiss.Index, vectors: np.ndarray, threshold: float, queries: np.ndarray, build_s: float
) -> Run:
    seconds, parts = 0.0, []
    for start in range(0, len(queries), _CHUNK_QUERIES):
        rows = queries[start : start + _CHUNK_QUERIES]
        chunk = vectors[rows]
        begin = time.perf_counter()
        limits, _, others = index.range_search(chunk, threshold)
        seconds += time.perf_counter() - begin
        parts.append((np.repeat(rows, np.diff(limits.astype(np.int64))), others))
    left, right = (np.concatenate(side) for side in zip(*parts, strict=True))
    return Run(build_s + seconds * len(vectors) / len(queries), left[left != right], right[left != right])
