"""Joins of vectors with planted groups: ours beside faiss's range search, inverted file and big batch search.

The data are those of ``tests.benchmarks._descriptors``. A recall is that of edges: of the true edges at a random sample
of vectors, found by exact arithmetic, the share that a method gives, from whichever end. Every method is set to the
least work that reaches 0.99 on that sample: ours by the number of lists that a vector is looked for in, the peers by
``nprobe`` for each of three numbers of lists, of which the fastest is taken. The peers train on as many vectors for as
many rounds as ours. What is timed is everything from the vectors, float32 for the peers and float16 for ours, to the
edges: training, filling, searching.

``IndexFlatIP`` and ``IndexIVFFlat`` search from a random share of the vectors (``--peer-share``); that time is scaled
up. Big batch search lives on having all queries at once and is run whole; it has no range search and looks for the 16
nearest. Ours is warmed up on a few vectors; a warm-up of whole joins would measure the same once more.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import torch

from conf import entry_point
from curation.neighbours import cost
from curation.neighbours.compute import in_order
from curation.neighbours.join import Exact, Spill, join
from curation.neighbours.tiles import BLOCK_ROWS, Pairs, Strips, between
from tests.benchmarks import _join_peers as peers
from tests.benchmarks import harness
from tests.benchmarks._descriptors import descriptors

THRESHOLD = 0.6
RECALL = 0.99
SPILLS = (2, 3, 4, 5, 6, 8, 10, 12, 16)
EXACT_UP_TO = 300_000


@dataclass(frozen=True)
class Truth:
    """True edges at a sample of vectors.

    Attributes:
        edges: [m, 2] int64, the lower row first, ascending.
        num_vectors: of the whole set.
    """

    edges: np.ndarray
    num_vectors: int

    def recall(self, left: np.ndarray, right: np.ndarray) -> float:
        """Share of the true edges among pairs of rows in any order."""
        found = np.minimum(left, right) * self.num_vectors + np.maximum(left, right)
        return float(np.isin(self.edges[:, 0] * self.num_vectors + self.edges[:, 1], found).mean())


def main() -> int:
    """Run the benchmark."""
    parser = harness.parser(
        "tests.benchmarks.join",
        "Exact and spill joins beside faiss, at one or several sizes.",
        "--num-vectors 1e5 1e6 --dim 512",
        rounds=3,
    )
    parser.add_argument("--num-vectors", type=float, nargs="+", default=[1e5, 1e6], help="for example 1e5 3e5 1e6 3e6")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2, help="of ours and of the peers")
    parser.add_argument("--truth", type=int, default=10_000, help="vectors whose true edges are found")
    parser.add_argument(
        "--peer-share", type=float, default=0.1, help="of the vectors that FlatIP and IVFFlat search from"
    )
    parser.add_argument("--peers-up-to", type=float, default=1e6, help="larger sizes are timed without peers")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sizes = sorted({int(num) for num in options.num_vectors})
    if sizes[0] < 1000 or options.dim < 1 or options.truth < 1 or options.threads < 1:
        raise ValueError("--num-vectors: give 1000 or more; --dim, --truth and --threads: 1 or more")
    if not 0 < options.peer_share <= 1:
        raise ValueError(f"--peer-share {options.peer_share}: give more than 0 and at most 1")
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    warm_up()

    keys: dict[str, Any] = {}
    exact_s, spill_s = {}, {}
    for num in sizes:
        print(f"\n== {num} vectors of {options.dim} dimensions", flush=True)
        vectors = descriptors(num, options.dim, THRESHOLD, options.seed)
        rates = machine_rates(vectors)
        if num <= EXACT_UP_TO:
            timing = exact_joins(vectors, options)
            exact_s[num] = timing.median_s()
            report("exact", timing, cost.exact(num, options.dim), rates)
            keys |= timing.speedups()
        truth = true_edges(vectors, min(options.truth, num), options.seed)
        timing, recalls, method = spill_joins(vectors, truth, options)
        spill_s[num] = timing.median_s()
        report("spill", timing, cost.spilled(num, options.dim, method), rates)
        keys |= timing.speedups() | recalls
        del vectors
        alone = (num, options.dim, options.seed, method.spill, options.threads)
        keys["peak_rss_bytes"] = harness.peak_rss_bytes(spill_alone, *alone)
        print(
            f"peak of a process that makes the vectors and joins them: {keys['peak_rss_bytes'] / 1e9:.2f} GB",
            flush=True,
        )
    keys |= {"exponent": exponent(spill_s), "exponent_exact": exponent(exact_s)}
    keys |= {"num_vectors": sizes, "seconds_spill": list(spill_s.values()), "seconds_exact": list(exact_s.values())}
    print("\n" + cost.report("the same spill join of 1.3e9 vectors", cost.spilled(1.3e9, options.dim, method)))
    harness.finish("join", timing, keys)
    return 0


def exact_joins(vectors: np.ndarray, options: argparse.Namespace) -> harness.Timing:
    """Every pair, beside ``IndexFlatIP``; both must give the same edges."""
    contenders: dict[str, Callable[[], peers.Run]] = {harness.OURS: lambda: ours(vectors, Exact())}
    queries = some(len(vectors), options.peer_share, options.seed)
    if len(vectors) <= options.peers_up_to:
        floats = vectors.astype(np.float32)
        contenders["exact_flat"] = lambda: peers.flat(floats, THRESHOLD, queries)
    timing = in_turn(contenders, options.rounds)
    if "exact_flat" in timing.results:
        found, theirs = timing.results[harness.OURS], timing.results["exact_flat"]
        num_mine = np.isin(found.left, queries).sum() + np.isin(found.right, queries).sum()
        print(f"edges from {len(queries)} queries: ours {num_mine}, flat {len(theirs.left)}", flush=True)
        assert abs(num_mine - len(theirs.left)) <= 1 + 1e-3 * num_mine, "the two differ by more than rounding explains"
    return timing


def spill_joins(
    vectors: np.ndarray, truth: Truth, options: argparse.Namespace
) -> tuple[harness.Timing, dict[str, float | None], Spill]:
    """The spill join beside FAISS's inverted file and big batch search, all at the recall asked for."""
    method = tuned(vectors, truth)
    contenders: dict[str, Callable[[], peers.Run]] = {harness.OURS: lambda: ours(vectors, method)}
    everything = np.arange(len(vectors))
    queries = some(len(vectors), options.peer_share, options.seed)
    if len(vectors) <= options.peers_up_to:
        floats = vectors.astype(np.float32)
        best = peers.tune(floats, THRESHOLD, truth.edges, RECALL, options.seed)
        contenders["spill_ivf"] = lambda: peers.inverted_file(floats, THRESHOLD, queries, best["ivf"], options.seed)
        contenders["spill_bigbatch"] = lambda: peers.big_batch(
            floats, THRESHOLD, everything, best["bigbatch"], options.seed
        )
    timing = in_turn(contenders, options.rounds)
    recalls: dict[str, float | None] = {"recall_spill": None, "recall_ivf": None, "recall_bigbatch": None}
    for name, run in timing.results.items():
        if name == "spill_ivf":
            recalls["recall_ivf"] = best["ivf"].recall
            continue
        key = {harness.OURS: "recall_spill", "spill_bigbatch": "recall_bigbatch"}[name]
        recalls[key] = truth.recall(run.left, run.right)
    print("; ".join(f"{key} {value}" for key, value in recalls.items()), flush=True)
    return timing, recalls, method


def tuned(vectors: np.ndarray, truth: Truth) -> Spill:
    """The least spill that reaches the recall, with the number of lists that goes with it.

    Raises:
        ValueError: none does.
    """
    for spill in SPILLS:
        run = ours(vectors, Spill(spill=spill))
        recall = truth.recall(run.left, run.right)
        num_lists = Spill(spill=spill).lists_for(len(vectors))
        print(f"  ours, {num_lists} lists, spill {spill}: recall {recall:.4f}, {run.seconds:.1f} s", flush=True)
        if recall >= RECALL:
            return Spill(spill=spill)
    raise ValueError(f"no spill up to {SPILLS[-1]} reaches a recall of {RECALL} on these vectors")


def ours(vectors: np.ndarray, method: Exact | Spill) -> peers.Run:
    """Run a join and keep its pairs."""
    start = time.perf_counter()
    pairs = Pairs.concatenate(list(join(vectors, THRESHOLD, method=method)))
    return peers.Run(time.perf_counter() - start, pairs.left, pairs.right)


def spill_alone(num_vectors: int, dim: int, seed: int, spill: int, num_threads: int) -> None:
    """What the peak of memory is measured of: pairs go by and are counted."""
    torch.set_num_threads(num_threads)
    vectors = descriptors(num_vectors, dim, THRESHOLD, seed)
    sum(len(pairs) for pairs in join(vectors, THRESHOLD, method=Spill(spill=spill)))


def in_turn(contenders: Mapping[str, Callable[[], peers.Run]], rounds: int) -> harness.Timing:
    """Each contender in turn, ``rounds`` times; they time themselves, as some scale a share of their work."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    results = {}
    for _ in range(rounds):
        for name, run in contenders.items():
            results[name] = run()
            seconds[name].append(results[name].seconds)
    return harness.Timing(seconds, results)


def true_edges(vectors: np.ndarray, num_queries: int, seed: int) -> Truth:
    """The edges at a random sample of vectors, by :func:`curation.neighbours.tiles.between`."""
    queries = some(len(vectors), num_queries / len(vectors), seed + 1)
    pairs = between(vectors[queries], vectors, THRESHOLD)
    edges = np.sort(np.stack([queries[pairs.left], pairs.right], axis=1), axis=1)
    edges = np.unique(edges[edges[:, 0] < edges[:, 1]], axis=0)
    print(f"{len(edges)} true edges at {num_queries} vectors", flush=True)
    return Truth(edges, len(vectors))


def some(num_vectors: int, share: float, seed: int) -> np.ndarray:
    """A random share of the rows, ascending."""
    return np.sort(np.random.default_rng(seed).choice(num_vectors, round(share * num_vectors), replace=False))


def machine_rates(vectors: np.ndarray) -> tuple[float, float]:
    """FLOP a second in tiles that are multiplied and looked through, bytes a second of vectors gathered at random."""
    part = vectors[:16384]
    strips = Strips(part, THRESHOLD)
    starts = range(0, len(part), BLOCK_ROWS)
    trials = []
    for _ in range(3):
        start = time.perf_counter()
        for _ in in_order(lambda first: strips.pairs(first, len(part)), starts):
            pass
        trials.append(time.perf_counter() - start)
    flop_per_s = len(part) * (len(part) + BLOCK_ROWS) * vectors.shape[1] / min(trials)
    rows = np.random.default_rng(0).integers(len(vectors), size=2**16)
    start = time.perf_counter()
    for _ in in_order(lambda first: Strips(vectors[rows[first : first + 2048]], THRESHOLD), range(0, len(rows), 2048)):
        pass
    bytes_per_s = len(rows) * vectors.shape[1] * vectors.itemsize / (time.perf_counter() - start)
    print(f"this machine: {flop_per_s / 1e9:.0f} GFLOP/s in tiles, {bytes_per_s / 1e9:.2f} GB/s of gathered vectors")
    return flop_per_s, bytes_per_s


def report(name: str, timing: harness.Timing, costs: list[cost.Cost], rates: tuple[float, float]) -> None:
    """The table, and the cost model's prediction beside the measured seconds."""
    print(timing.table())
    predicted = cost.predicted_s(costs, *rates)
    flop = sum(step.flop for step in costs)
    print(f"{name}: predicted {predicted:.1f} s ({flop:.3g} FLOP), measured {timing.median_s():.1f} s", flush=True)


def exponent(seconds: Mapping[int, float]) -> float | None:
    """The power of the number of vectors that the seconds grow with, by least squares; None from one size."""
    if len(seconds) < 2:
        return None
    return float(np.polyfit(np.log(list(seconds)), np.log(list(seconds.values())), 1)[0])


def warm_up() -> None:
    """Compile what is compiled at its first call."""
    vectors = descriptors(5000, 64, THRESHOLD, 0)
    for method in (Exact(), Spill(spill=3)):
        ours(vectors, method)


if __name__ == "__main__":
    entry_point(main)
