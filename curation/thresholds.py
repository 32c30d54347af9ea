"""What other thresholds of near-duplicate removal would mean, without another join.

Reads the maximum spanning forest that ``dedup`` keeps: above any threshold from the recipe's upwards it connects what
all edges above it connect. Dropped are all but one of each group, as in the paper.
"""

import argparse
import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from conf import entry_point
from curation.neighbours.forest import Count, maximum_spanning_forest
from curation.store import Store

_STEP = 0.05


def counts(store: Store, thresholds: list[float] | None = None) -> list[Count]:
    """Components at several thresholds.

    Args:
        store: one in which ``dedup`` has run.
        thresholds: None: that of the run, and every 0.05 above it.

    Raises:
        ValueError: it has not run, or a threshold lies below its own.
    """
    if (run := store.runs().get("dedup")) is None:
        raise ValueError(
            f"{store.uri}: dedup has not run there; run python -m spark_jobs.run with a recipe of this store"
        )
    if run.recipe.get("normalise") is not None:
        raise ValueError(
            f"{store.uri}: its recipe.dedup.normalise weighs each pair's threshold by a background, so the forest's "
            "similarities tell nothing of other thresholds; run dedup with recipe.dedup.threshold at each, which "
            "searches no pair again above the present one"
        )
    floor = float(run.recipe["threshold"])
    if thresholds is None:
        first = math.floor(floor / _STEP) + 1
        thresholds = [floor, *(round(k * _STEP, 2) for k in range(first, round(1 / _STEP)))]
    forest = store.table("forest")
    ids = pa.chunked_array([*forest["lower_id"].chunks, *forest["higher_id"].chunks], pa.string()).unique()
    ends = [pc.index_in(forest[end], ids).to_numpy() for end in ("lower_id", "higher_id")]
    parts = [(np.stack(ends, axis=1).astype(np.int64), forest["similarity"].to_numpy())]
    return maximum_spanning_forest(len(ids), parts, floor).counts(thresholds)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m curation.thresholds",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m curation.thresholds runs/demo/store 0.7 0.75",
    )
    parser.add_argument("store", metavar="STORE", help="folder or URI of the store")
    parser.add_argument("thresholds", nargs="*", type=float, metavar="THRESHOLD", help="the run's own and above")
    arguments = parser.parse_args()
    store = Store(arguments.store)
    table = counts(store, arguments.thresholds or None)
    pool = store.runs()["dedup"].rows_in
    print("dropped: all but one of each group, as by mode=paper; by witness fewer; evaluation copies are not counted")
    print(f"{'threshold':>9}{'groups':>12}{'in groups':>12}{'dropped':>12}{'largest group':>15}{'of the pool':>13}")
    for row in table:
        share = row.largest / max(pool, 1)
        print(
            f"{row.threshold:>9.3g}{row.num_groups:>12,}{row.num_grouped:>12,}{row.num_dropped:>12,}"
            f"{row.largest:>15,}{share:>13.2%}"
        )
    return 0


if __name__ == "__main__":
    entry_point(main)
