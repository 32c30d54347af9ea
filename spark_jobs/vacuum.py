"""Find, and remove if told to, what killed runs and runs of the past have left in a store.

What goes: Parquet files that no version of a table names, half-written files, search indexes of runs that died, plans
of embedding that are void, rounds of k-means that nobody continues, and the tar shards of finished runs that no current
table names any more. Every version of every table stays. The shards and rounds of a run that has not finished stay too,
since it may continue, and so do a plan and its parts; with a recipe in place of the store, only those of the runs that
this recipe would continue.
"""

import argparse
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from conf import entry_point, load
from curation import schema
from curation.descriptors import plan as plans
from curation.descriptors.plan import Plan
from curation.store import Store
from curation.whole_files import is_partial
from spark_jobs import rounds
from spark_jobs.config import CurationConfig
from spark_jobs.run import STAGES
from spark_jobs.stage import lock_store
from spark_jobs.tables import Tables

_LOG = "_delta_log"
_WITH_SHARDS = tuple(table.name for table in schema.TABLES.values() if "shard" in table.schema.names)


@dataclass(frozen=True, order=True)
class Waste:
    """Files of one folder that nothing needs.

    Attributes:
        folder: relative to the store.
        why: one sentence.
        files: their paths.
        size_bytes: of all of them.
    """

    folder: str
    why: str
    files: tuple[Path, ...]
    size_bytes: int


def find_waste(store: Store, continued: frozenset[str] | None = None) -> list[Waste]:
    """What can go from a store that nobody is writing.

    Args:
        store: a local one.
        continued: ids of the runs that would be continued; None: that of any unfinished run may be.

    Raises:
        ValueError: a version of a table cannot be read, so that it is unknown what it needs.
    """
    root = Path(store.uri)
    live = {plan.key: plan for plan in plans.plans(store)}
    found = [*_of_tables(store, root, live), *_of_shards(store, root, continued), *_of_indexes(store, root)]
    found += [*_of_plans(root, live), *_of_rounds(store, root, continued)]
    ordered = sorted((path.parent.relative_to(root).as_posix(), why, path) for path, why in found)
    waste = []
    for (folder, why), group in groupby(ordered, key=lambda entry: entry[:2]):
        files = tuple(path for _, _, path in group)
        waste.append(Waste(folder, why, files, sum(path.lstat().st_size for path in files)))
    return waste


def remove(store: Store, waste: list[Waste]) -> None:
    """Remove the files, and the folders of shards, indexes, plans and rounds that are empty then."""
    for each in waste:
        for path in each.files:
            path.unlink(missing_ok=True)
    for each in reversed(waste):  # what lies in a folder before the folder
        folder = Path(store.uri, each.folder)
        if not each.folder.startswith("tables/") and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def continued_runs(store: Tables, config: CurationConfig) -> frozenset[str]:
    """Ids of the runs of a recipe that may have shards or rounds: made, or to be made or continued, by it."""
    ids: list[str] = []
    for stage in STAGES[: schema.STAGES.index("cluster") + 1]:
        key, _ = stage.key(store, config, ids[-1] if ids else None)
        ids.append(key.run_id)
    return frozenset(ids)


def _of_tables(store: Store, root: Path, live: Mapping[str, Plan]) -> Iterator[tuple[Path, str]]:
    for table in (path for path in _entries(root / "tables") if (path / _LOG).is_dir()):
        named = _named(store, table.name)
        named |= {plan.part(unit) for plan in live.values() if plan.table == table.name for unit in plan.units}
        for path in _files(table):
            if path.suffix == ".parquet" and path.relative_to(table).as_posix() not in named:
                yield path, "no version of the table names it"
            # an array of jobs may be writing for a live plan; everybody else holds the store's lock
            if is_partial(path.name) and not any(key in path.name for key in live):
                yield path, "half-written by an attempt that died"


def _named(store: Store, name: str) -> set[str]:
    """The files that some version of a table needs."""
    try:
        table = DeltaTable(store.table_uri(name))
        named: set[str] = set()
        for commit in table.history():
            table.load_as_version(commit["version"])
            named.update(store.files(table))
    except DeltaError as error:
        raise ValueError(
            f"{store.table_uri(name)}: its history cannot be read, so nothing is removed: {error}"
        ) from error
    return named


def _of_shards(store: Store, root: Path, continued: frozenset[str] | None) -> Iterator[tuple[Path, str]]:
    needed = _runs_with_shards(store)
    finished = set(store.table("runs", columns=["run_id"])["run_id"].to_pylist())
    for folder in _entries(root / "shards"):
        gone = None
        if folder.name not in needed and folder.name in finished:
            gone = "no current table names the shards of this run"
        elif folder.name not in needed and continued is not None and folder.name not in continued:
            gone = "the run did not finish, and this recipe would not continue it"
        for path in _files(folder):
            if gone is not None:
                yield path, gone
            elif is_partial(path.name):
                yield path, "half-written by an attempt that died"


def _runs_with_shards(store: Store) -> set[str]:
    """Ids of the runs whose shards the current tables name."""
    runs: set[str] = set()
    for name in _WITH_SHARDS:
        if not DeltaTable.is_deltatable(store.table_uri(name)):
            continue
        for file in store.files(DeltaTable(store.table_uri(name))):
            parquet = pq.ParquetFile(f"{store.table_uri(name)}/{file}", read_dictionary=["shard"])
            for batch in parquet.iter_batches(columns=["shard"], use_threads=False):
                shards = batch.column("shard").unique().to_pylist()
                runs |= {shard.split("/")[1] for shard in shards if shard and shard.startswith("store:shards/")}
    return runs


def _of_plans(root: Path, live: Mapping[str, Plan]) -> Iterator[tuple[Path, str]]:
    for folder in _entries(root / plans.FOLDER):
        if folder.name not in live:
            for path in _files(folder):
                yield path, "a plan of embedding that is incomplete, or of a table that has moved on"


def _of_rounds(store: Store, root: Path, continued: frozenset[str] | None) -> Iterator[tuple[Path, str]]:
    finished = set(store.table("runs", columns=["run_id"])["run_id"].to_pylist())
    for folder in _entries(root / rounds.FOLDER):
        if folder.name in finished or (continued is not None and folder.name not in continued):
            for path in _files(folder):
                yield path, "a round of k-means of a run that is over"


def _of_indexes(store: Store, root: Path) -> Iterator[tuple[Path, str]]:
    tiles = store.table("tiles", ["collection", "shard"])
    elsewhere = pc.fill_null(pc.match_substring(tiles["collection"], "@"), False)  # another store's
    shards = set(tiles.filter(pc.invert(elsewhere))["shard"].to_pylist())
    for path in _files(root / "indexes"):
        if path.relative_to(root).as_posix() not in shards:
            yield path, "a search index of a run that died"
    for path in _files(root / "scratch"):
        yield path, "written down between two steps of a run that died"


def _entries(folder: Path) -> list[Path]:
    """What a folder of a store holds, unless that is elsewhere."""
    return [] if folder.is_symlink() else sorted(folder.glob("*"))


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder but those of a Delta log; links, as the folder itself may be one, are left alone."""
    if folder.is_symlink():  # os.walk follows this one
        return
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != _LOG)
        yield from (path for name in sorted(names) if not (path := Path(place, name)).is_symlink())


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m spark_jobs.vacuum",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m spark_jobs.vacuum runs/demo/store --remove",
    )
    parser.add_argument("place", metavar="RECIPE_OR_STORE", help="a YAML file of conf/curation, or a store's folder")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted keys of the recipe")
    parser.add_argument("--remove", action="store_true", help="remove it; without this, nothing is changed")
    arguments = parser.parse_intermixed_args()
    is_recipe = arguments.place.endswith((".yaml", ".yml"))
    if not is_recipe and arguments.overrides:
        raise ValueError(f"{arguments.place} is a store, which has no keys to override; name a recipe's YAML file")
    config = load(CurationConfig, arguments.place, arguments.overrides) if is_recipe else None
    store = Tables(config.store if config else arguments.place)
    if "://" in store.uri:
        raise ValueError(
            f"{store.uri}: nothing there keeps other processes from writing; only local stores are vacuumed"
        )
    if not Path(store.uri, "tables").is_dir():
        raise ValueError(f"{store.uri}: no store is there; name the folder that holds tables/")
    with lock_store(Path(store.uri, "lock")):
        waste = find_waste(store, continued_runs(store, config) if config else None)
        for each in waste:
            print(f"{each.folder:<44}{len(each.files):>8,} files{each.size_bytes:>18,} bytes  {each.why}")
        if arguments.remove:
            remove(store, waste)
    done = "removed" if arguments.remove else "to be removed with --remove"
    total = sum(len(each.files) for each in waste)
    print(f"{store.uri}: {total:,} files, {sum(each.size_bytes for each in waste):,} bytes {done}")
    return 0


if __name__ == "__main__":
    entry_point(main)
