"""What a join costs, before it is run: operations, bytes, core-hours and GPU-hours at any size.

``python -m curation.neighbours.cost --num-vectors 1.3e9`` prints it. The counts follow from the methods of
``curation.neighbours.join``; what a machine does in a second is a constant below, or measured and given.
"""

import argparse
from dataclasses import dataclass
from types import MappingProxyType

from conf import entry_point
from curation.neighbours.join import UNEQUAL, Spill
from curation.neighbours.quantiser import NUM_ROUNDS, SAMPLE_PER_LIST

# FLOP a second, all assumed; one AMX core gave 850e9 to 1150e9 in bfloat16 products alone, without scans
RATES = MappingProxyType({"CPU core": 100e9, "AMX core": 400e9, "V100": 50e12, "H200": 450e12})
_BYTES = 2  # of a number of a stored vector
_EDGE_BYTES = 20  # two int64 rows and a float32
_SECONDS_AN_HOUR = 3600


@dataclass(frozen=True)
class Cost:
    """Of one step.

    Attributes:
        name: the step.
        flop: additions and multiplications in matrix products.
        bytes_moved: of vectors that are read, gathered by list or sent to the task that joins a list.
    """

    name: str
    flop: float
    bytes_moved: float

    def seconds(self, flop_per_s: float, bytes_per_s: float) -> float:
        """On one machine that computes and moves in turn."""
        return self.flop / flop_per_s + self.bytes_moved / bytes_per_s


def exact(num_vectors: float, dim: int) -> list[Cost]:
    """Every pair once: half of a square. Vectors are read for every strip of a million that stays in memory."""
    passes = max(1.0, num_vectors / 2**20 / 2)
    return [Cost("every pair", float(num_vectors) ** 2 * dim, passes * num_vectors * dim * _BYTES)]


def spilled(num_vectors: float, dim: int, method: Spill, imbalance: float = UNEQUAL) -> list[Cost]:
    """The steps of a spill join: training, the lists of every vector, the pairs of every list.

    In a list of h hosts there are on average m h vectors in all, and h rows are multiplied with all of them.
    """
    num_lists, num_visits = method.lists_for(int(num_vectors)), method.spill
    sample = min(num_vectors, float(SAMPLE_PER_LIST * num_lists))
    product = 2.0 * dim
    vector_bytes = float(dim * _BYTES)
    return [
        Cost("training", NUM_ROUNDS * sample * num_lists * product, NUM_ROUNDS * sample * vector_bytes),
        Cost("lists of every vector", num_vectors * num_lists * product, num_vectors * vector_bytes),
        Cost(
            "pairs of every list",
            imbalance * num_visits * num_vectors**2 / num_lists * product,
            num_visits * num_vectors * vector_bytes,
        ),
    ]


def predicted_s(costs: list[Cost], flop_per_s: float, bytes_per_s: float) -> float:
    """Seconds of all steps on one machine."""
    return sum(cost.seconds(flop_per_s, bytes_per_s) for cost in costs)


def main() -> int:
    """Print the costs of both joins."""
    parser = argparse.ArgumentParser(
        prog="python -m curation.neighbours.cost",
        description="Operations, bytes, core-hours and GPU-hours of the exact and the spill join.",
        epilog="example: python -m curation.neighbours.cost --num-vectors 1.3e9 --dim 512 --spill 4",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--num-vectors", type=float, default=1.3e9)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--spill", type=int, default=Spill().spill, help="nearest lists a vector is looked for in")
    parser.add_argument("--num-lists", type=int, help="default: those with the least work in all")
    options = parser.parse_args()
    if options.num_vectors < 1 or options.dim < 1 or options.spill < 1 or (options.num_lists or 1) < 1:
        raise ValueError("--num-vectors, --dim, --spill and --num-lists: give 1 or more")
    method = Spill(options.num_lists, options.spill)
    print(f"{options.num_vectors:.4g} vectors of {options.dim} dimensions\n")
    print(report("exact", exact(options.num_vectors, options.dim)))
    num_lists = method.lists_for(int(options.num_vectors))
    name = f"spill: {num_lists} lists, each vector in {method.spill}"
    print(report(name, spilled(options.num_vectors, options.dim, method)))
    print(f"stored: vectors {_size(options.num_vectors * options.dim * _BYTES)} (float16); an edge {_EDGE_BYTES} bytes")
    return 0


def report(name: str, costs: list[Cost]) -> str:
    """A table: a row a step and one for their sum, a column a machine with the hours on one of it."""
    lines = [name, f"  {'':<24}{'FLOP':>10}{'moved':>10}" + "".join(f"{machine + ' h':>14}" for machine in RATES)]
    total = Cost("sum", sum(cost.flop for cost in costs), sum(cost.bytes_moved for cost in costs))
    for cost in (*costs, total) if len(costs) > 1 else costs:
        hours = "".join(f"{cost.flop / rate / _SECONDS_AN_HOUR:>14.3g}" for rate in RATES.values())
        lines.append(f"  {cost.name:<24}{cost.flop:>10.2g}{_size(cost.bytes_moved):>10}{hours}")
    return "\n".join(lines) + "\n"


def _size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if num_bytes < 1000 or unit == "PB":
            break
        num_bytes /= 1000
    return f"{num_bytes:.3g} {unit}"


if __name__ == "__main__":
    entry_point(main)
