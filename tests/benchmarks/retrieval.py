"""Retrieval from a shard: ours beside faiss, by lists and by exact search.

The data are those of ``tests.benchmarks._descriptors``, parted at random into a base and queries. Ours is what a task
of ``retrieve`` does: :func:`curation.neighbours.search.search_shards` on a shard that lies on the disk, float16, mapped
into memory, ids in the answer. The peer is ``IndexIVFPQ`` with ``IndexRefineFlat`` on float32 vectors in memory, with
as many lists, trained on the same vectors. Both are set to the least time that reaches the recall asked for: numbers of
lists searched, and of the peer's candidates scored again, are tried on a share of the queries. Recall is the
share of the true k nearest by exact arithmetic that are found. Building is told, and is not part of the speedup.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

from conf import entry_point
from curation.neighbours.knn import nearest
from curation.neighbours.product_codes import Codebook
from curation.neighbours.quantiser import Quantiser
from curation.neighbours.search import Found, Shard, read_shard, search_shards, write_shard
from tests.benchmarks import harness
from tests.benchmarks._descriptors import descriptors

PROBES = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
FETCHES = (1, 2, 3, 4, 6, 8, 12, 16)
TUNED_ON = 1000  # queries
THRESHOLD = 0.6  # of the planted copies


@dataclass(frozen=True)
class Setting:
    """Lists searched, candidates for each neighbour wanted, and the recall they reach."""

    num_probes: int
    over_fetch: int
    recall: float


def main() -> int:
    """Run the benchmark."""
    parser = harness.parser(
        "tests.benchmarks.retrieval",
        "Search for the nearest pool images beside faiss, by lists and exactly.",
        "--num-vectors 50000 --num-queries 2000",
    )
    parser.add_argument("--num-vectors", type=int, default=200_000, help="of the base")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--num-queries", type=int, default=10_000)
    parser.add_argument("--k", type=int, default=32, help="neighbours a query")
    parser.add_argument("--num-lists", type=int, default=512)
    parser.add_argument(
        "--method", choices=("ivf", "ivfpq"), default="ivf", help="of ours, lists of vectors or of codes"
    )
    parser.add_argument("--code-bytes", type=int, default=64, help="of the peer, and of ours by codes")
    parser.add_argument("--recall", type=float, default=0.95, help="that both are set to reach")
    parser.add_argument("--flat-queries", type=int, default=2000, help="of the exact search")
    parser.add_argument("--threads", type=int, default=2, help="of ours and of the peers")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not 0 < options.recall < 1:
        raise ValueError(f"--recall {options.recall}: give more than 0 and less than 1")
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    vectors = descriptors(options.num_vectors + options.num_queries, options.dim, THRESHOLD, options.seed)
    base, queries = vectors[: options.num_vectors], vectors[options.num_vectors :]
    truth = nearest(base, queries, options.k).row.reshape(len(queries), -1)
    with tempfile.TemporaryDirectory() as folder:
        listed, keys = by_lists(base, queries, truth, Path(folder), options)
        exact = flat(base, queries[: options.flat_queries], truth, Path(folder), options)
    per_s = {
        "queries_per_s": len(queries) / listed.median_s(),
        "queries_per_s_flat": options.flat_queries / exact.median_s(),
    }
    print(exact.table())
    harness.finish("retrieval", listed, listed.speedups() | exact.speedups() | keys | per_s)
    return 0


def by_lists(
    base: np.ndarray, queries: np.ndarray, truth: np.ndarray, folder: Path, options: argparse.Namespace
) -> tuple[harness.Timing, dict[str, Any]]:
    """Ours by ``--method`` beside IVF-PQ with exact scores, both at the recall asked for."""
    floats, wanted = base.astype(np.float32), queries.astype(np.float32)
    shard = timed("ours, trained and written", lambda: our_shard(base, folder / "lists", options))
    peer, lists, _coarse = timed("peer, trained and filled", lambda: peer_index(floats, options))

    def ours(some: np.ndarray, probes: int, fetch: int) -> Found:
        return search_shards([shard], some, options.k, probes, fetch)

    def theirs(some: np.ndarray, probes: int, fetch: int) -> np.ndarray:
        lists.nprobe, peer.k_factor = probes, fetch
        return peer.search(some, options.k)[1]

    few = slice(0, TUNED_ON)
    fetches = FETCHES if options.method == "ivfpq" else (1,)
    mine = tuned(lambda p, f: recall_of_ids(ours(queries[few], p, f), truth[few]), options, "ours", fetches)
    others = tuned(lambda p, f: recall_of_rows(theirs(wanted[few], p, f), truth[few]), options, "peer", FETCHES)
    contenders = {
        harness.OURS: lambda: ours(queries, mine.num_probes, mine.over_fetch),
        "ivfpq": lambda: theirs(wanted, others.num_probes, others.over_fetch),
    }
    timing = harness.measure(contenders, options.rounds)
    keys = {
        "method": options.method,
        "recall": recall_of_ids(timing.results[harness.OURS], truth),
        "recall_peer": recall_of_rows(timing.results["ivfpq"], truth),
        "num_probes": mine.num_probes,
        "num_probes_peer": others.num_probes,
        "over_fetch_peer": others.over_fetch,
    }
    return timing, keys


def flat(
    base: np.ndarray, queries: np.ndarray, truth: np.ndarray, folder: Path, options: argparse.Namespace
) -> harness.Timing:
    """Exact search of a shard beside ``IndexFlatIP``."""
    write_shard(folder / "flat", ids(base), base)
    shard, index = read_shard(folder / "flat"), faiss.IndexFlatIP(base.shape[1])
    index.add(base.astype(np.float32))
    wanted = queries.astype(np.float32)
    contenders: dict[str, Callable[[], Any]] = {
        harness.OURS: lambda: search_shards([shard], queries, options.k),
        "flat": lambda: index.search(wanted, options.k)[1],
    }
    timing = harness.measure(contenders, options.rounds)
    found = recall_of_ids(timing.results[harness.OURS], truth[: len(queries)])
    assert found == 1, f"exact search found {found} of the neighbours"
    return timing


def our_shard(base: np.ndarray, folder: Path, options: argparse.Namespace) -> Shard:
    """Train lists or codes on the base, write its shard and map it."""
    sample = base[: 256 * options.num_lists]
    trained: Quantiser | Codebook
    if options.method == "ivf":
        trained = Quantiser.train(sample, options.num_lists, options.seed)
    else:
        trained = Codebook.train(sample, options.num_lists, options.code_bytes, options.seed)
    write_shard(folder, ids(base), base, trained)
    return read_shard(folder, trained)


def peer_index(base: np.ndarray, options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """The peer, trained on the same vectors, with the indexes that it keeps pointers to."""
    dim, metric = base.shape[1], faiss.METRIC_INNER_PRODUCT
    coarse = faiss.IndexFlatIP(dim)
    codes = faiss.IndexIVFPQ(coarse, dim, options.num_lists, options.code_bytes, 8, metric)
    codes.cp.seed = options.seed
    index = faiss.IndexRefineFlat(codes)
    index.train(base[: 256 * options.num_lists])
    index.add(base)
    return index, codes, coarse


def tuned(
    recall: Callable[[int, int], float], options: argparse.Namespace, name: str, fetches: Sequence[int]
) -> Setting:
    """The pair that reaches the recall in the least time.

    Raises:
        ValueError: none does.
    """
    best, least = None, float("inf")
    for fetch in fetches:
        for probes in (p for p in PROBES if p <= options.num_lists):
            start = time.perf_counter()
            reached = recall(probes, fetch)
            seconds = time.perf_counter() - start
            if reached >= options.recall and seconds < least:
                best, least = Setting(probes, fetch, reached), seconds
            if reached >= options.recall or seconds > 2 * least:
                break  # more lists take longer
    if best is None:
        raise ValueError(f"{name}: no setting reaches a recall of {options.recall}; lower --recall")
    print(f"{name}: {best.num_probes} lists, {best.over_fetch} k candidates, recall {best.recall:.4f}", flush=True)
    return best


def recall_of_rows(rows: np.ndarray, truth: np.ndarray) -> float:
    """Share of the true neighbours [q, k] among the rows found [q, k]."""
    return float(np.mean([np.isin(truth[i], rows[i]).mean() for i in range(len(truth))]))


def recall_of_ids(found: Found, truth: np.ndarray) -> float:
    """The same of an answer with ids."""
    rows = found.ids.astype(np.int64)
    ends = np.searchsorted(found.query, np.arange(len(truth) + 1))
    return float(np.mean([np.isin(truth[i], rows[ends[i] : ends[i + 1]]).mean() for i in range(len(truth))]))


def ids(base: np.ndarray) -> list[str]:
    """An id a row, as long as an image's, in the order of the rows."""
    return [f"{i:032}" for i in range(len(base))]


def timed(what: str, work: Callable[[], Any]) -> Any:
    """Do it and tell how long it took."""
    start = time.perf_counter()
    result = work()
    print(f"{what} in {time.perf_counter() - start:.1f} s", flush=True)
    return result


if __name__ == "__main__":
    entry_point(main)
