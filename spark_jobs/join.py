"""The index of a store and the pairs its vectors give: Spark tasks build shards, join their tiles, append edges.

Both are facts. A snapshot is what one run added of one collection; it is joined with itself and with all that was there
before, once. How low each snapshot has been joined stands in the commits that hold its edges, so a run that was
killed, or a lower threshold, does exactly what is missing. Vectors and edges never meet on the driver.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement, groupby, product
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from curation import schema
from curation.neighbours import certificate, tiles
from curation.neighbours.certificate import Certificate
from curation.neighbours.index import TILE_ROWS, IndexKey, Reader, Tile, blocks, read_ids, write_tiles
from curation.neighbours.join import meeting_list
from curation.neighbours.quantiser import Quantiser
from curation.schema import POOL
from curation.store import Store, locate, open_uri
from curation.whole_files import put_whole, whole_file
from spark_jobs.sampling import sample as by_id
from spark_jobs.stage import Context
from spark_jobs.tables import absolute
from spark_jobs.vectors import as_float32, matrix

_SHARD_ROWS = 2**17  # vectors of a shard, about: 128 MiB at 512 dimensions
_PART_TILES = 16  # tiles of one list that lie in one shard, about
_VECTORS_PER_LIST = 39  # at least, of those that lists are trained on: faiss's bound
_LOWEST = 2**31  # above any number that stands for a threshold
_EDGES_A_BATCH = 2**16

_PLACES = pa.list_(pa.struct([("shard", pa.string()), ("batch", pa.int32())]))
_BLOCK_PAIRS = pa.schema([("list", pa.int32()), ("left", _PLACES), ("right", _PLACES)])
_ASSIGNED = pa.schema(
    [
        ("list", pa.int32()),
        ("visiting", pa.bool_()),
        ("image_id", pa.string()),
        ("vector", pa.binary()),
        ("lists", pa.binary()),
    ]
)
_FOUND = pa.schema([("query", pa.string()), ("lower_id", pa.string()), ("higher_id", pa.string())])


@dataclass(frozen=True)
class Index:
    """An index of the store: its vectors of one model, cut into the same lists for ever.

    Attributes:
        context: of the stage.
        key: what is in it.
        quantiser: URI of the file that holds the lists; None for one list.
    """

    context: Context
    key: IndexKey
    quantiser: str | None = None

    @property
    def name(self) -> str:
        """As in the column ``index`` of the tables."""
        return self.key.digest

    def tiles(self, *collections: str) -> DataFrame:
        """The catalogue of some collections' tiles."""
        rows = self.context.store.frame(self.context.spark, schema.TILES)
        return rows.where((F.col("index") == self.name) & F.col("collection").isin(*collections))

    def edges(self, collection: str, threshold: float) -> DataFrame:
        """The pairs above a threshold that joins have found, whether or not their images are still there."""
        rows = self.context.store.frame(self.context.spark, schema.EDGES)
        mine = (F.col("index") == self.name) & (F.col("collection") == collection)
        return rows.where(mine & (F.col("similarity") > as_float32(threshold))).drop("index", "collection")

    def add(self, collection: str, vectors: DataFrame) -> int:
        """Add a snapshot: those vectors (image_id, vector) of a collection that the index lacks. Returns how many."""
        store = self.context.store
        new = vectors.join(self._known(collection), "image_id", "left_anti")
        num_new = new.count()
        if not num_new:
            return 0
        snapshot = self._next_snapshot()
        num_lists = len(_lists(self.quantiser).centroids) if self.quantiser else 1
        num_rows = num_new * self.key.spill
        # a shard's rows follow from the data alone, so that its bytes do too
        parts = -(-num_rows // (num_lists * _PART_TILES * TILE_ROWS))
        shards = -(-num_rows // _SHARD_ROWS)
        placed = new.mapInArrow(_assigner(self.quantiser, self.key.spill), from_arrow_schema(_ASSIGNED))
        placed = placed.withColumn("part", F.pmod(F.xxhash64("image_id"), F.lit(parts)).cast("int"))
        placed = placed.withColumn("shard", F.pmod(F.xxhash64("list", "part"), F.lit(shards)).cast("int"))
        placed = placed.repartition(min(shards, self.context.config.runtime.partitions), "shard")
        placed = placed.sortWithinPartitions("shard", "list", "visiting", "part", "image_id")
        write = _shard_writer(store.uri, f"indexes/{self.name}/{snapshot:05d}", self.name, collection, snapshot)
        store.append(
            schema.TILES, placed.mapInArrow(write, from_arrow_schema(schema.TILES.schema)), self.context.run, {}
        )
        return num_new

    def add_store(self, name: str, uri: str) -> str:
        """Take in what is new in the pool of another store's index, where it lies.

        Shards are named relative to that store, and the collection by the id of that store's catalogue besides its
        name: the id stays when a store is moved, and is another one in a store that is made anew.

        Returns:
            the collection.

        Raises:
            ValueError: that store has no index of this model and these lists.
        """
        store, other = self.context.store, Store(uri)
        mine = pa.compute.field("index") == self.name
        found = other.table("tiles", filter=mine & (pa.compute.field("collection") == POOL))
        if not found.num_rows:
            raise ValueError(
                f"sources.stores.{name}={uri}: it holds no index {self.name}; run its dedup with the same model "
                "and recipe.dedup.join (a spill join also needs the same recipe.dedup.join.quantiser)"
            )
        collection = f"{name}@{DeltaTable(other.table_uri('tiles')).metadata().id}"
        known = store.table("tiles", ["shard"], mine & (pa.compute.field("collection") == collection))["shard"]
        found = found.filter(pa.compute.invert(pa.compute.is_in(found["shard"], known.combine_chunks())))
        if found.num_rows:
            number = pa.array([self._next_snapshot()] * found.num_rows, pa.int32())
            found = found.set_column(found.schema.get_field_index("snapshot"), "snapshot", number)
            names = pa.array([collection] * found.num_rows, pa.string())
            found = found.set_column(found.schema.get_field_index("collection"), "collection", names)
            store.append(schema.TILES, found, self.context.run, {})
        return collection

    def join(self, collection: str, threshold: float, place: str | None = None) -> None:
        """Append every pair above a threshold, within the pool or of the pool and another collection, not yet there.

        Args:
            collection: POOL, or the other one.
            threshold: of the edges.
            place: the store that has the other one's shards; None: this one.
        """
        store = self.context.store
        roots = store.uri, store.uri if place is None else absolute(place)
        catalogue = self.tiles(POOL, collection)
        numbers = sorted(row["snapshot"] for row in catalogue.select("snapshot").distinct().collect())
        unit = {number: f"join/{self.name}/{collection}/{number}" for number in numbers}
        done = store.progress(schema.EDGES, unit.values())
        wanted = _as_number(threshold)
        for state, group in groupby(numbers, key=lambda number: done[unit[number]]):
            new = list(group)
            if state is not None and state >= wanted:
                continue
            ceiling = None if state is None else _as_threshold(state)
            known = catalogue.where(F.col("snapshot") <= new[-1]).withColumn("new", F.col("snapshot") >= new[0])
            pairs = known.groupBy("list").applyInArrow(_planner(collection), from_arrow_schema(_BLOCK_PAIRS))
            spread = pairs.repartition(self.context.config.runtime.partitions, "left", "right")
            work = _joiner(roots, self.name, collection, threshold, ceiling)
            edges = spread.sortWithinPartitions("list", "left", "right")
            found = edges.mapInArrow(work, from_arrow_schema(schema.EDGES.schema))
            store.append(schema.EDGES, found, self.context.run, {unit[number]: wanted for number in new})

    def certify(self, vectors: DataFrame, threshold: float, sample: int) -> Certificate:
        """Search a random sample of the pool exactly, and see which of its edges the joins have found.

        Args:
            vectors: (image_id, vector) of the whole pool.
            threshold: of the edges.
            sample: images, the last by id; the lists of a spill join are trained on the first.
        """
        rows = by_id(vectors, sample, last=True)
        if not rows:
            return certificate.certify(0, np.empty(0), np.empty(0))
        queries = matrix([bytes(row["vector"]) for row in rows])
        search = _searcher([row["image_id"] for row in rows], queries, threshold)
        exact = vectors.select("image_id", "vector").mapInArrow(search, from_arrow_schema(_FOUND))
        found = self.edges(POOL, threshold).select("lower_id", "higher_id", F.lit(1).alias("found"))
        counted = exact.join(found, ["lower_id", "higher_id"], "left").groupBy("query")
        counts = counted.agg(F.count("lower_id").alias("edges"), F.count("found").alias("found")).collect()
        return certificate.certify(len(rows), [row["edges"] for row in counts], [row["found"] for row in counts])

    def _known(self, collection: str) -> DataFrame:
        """The ids (image_id) of a collection that are in the index, read from its shards."""
        uri = self.context.store.uri

        def read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                for shard in batch.column("shard").to_pylist():
                    for ids in read_ids(_uri(uri, shard)):
                        yield pa.RecordBatch.from_arrays([ids], names=["image_id"])

        shards = self.tiles(collection).select("shard").distinct()
        spread = shards.repartition(self.context.config.runtime.partitions, "shard")
        return spread.mapInArrow(read, "image_id string")

    def _next_snapshot(self) -> int:
        mine = pa.compute.field("index") == self.name
        last = pa.compute.max(self.context.store.table("tiles", ["snapshot"], mine)["snapshot"]).as_py()
        return 0 if last is None else last + 1


def open_index(context: Context, model: str, pool: DataFrame) -> Index:
    """The index that the recipe asks for.

    Args:
        context: of the stage.
        model: digest of the model.
        pool: (image_id, vector), what the lists are trained on where the store has none.

    Raises:
        ValueError: the recipe's quantiser has another hash or does not fit.
    """
    join, store = context.config.recipe.dedup.join, context.store
    if join.method == "exact":
        return Index(context, IndexKey(model))
    if join.quantiser is not None:
        with open_uri(join.quantiser.path) as file:
            data = file.read()
        digest = hashlib.sha256(data).hexdigest()
        if digest != join.quantiser.sha256:
            raise ValueError(
                f"recipe.dedup.join.quantiser.path={join.quantiser.path}: its SHA-256 is {digest}, "
                f"not {join.quantiser.sha256}"
            )
        _check_lists(join.quantiser.path, data, join.spill, pool)
        name = digest[:16]
    else:
        settings = f"{model}\0{join.num_lists}\0{join.sample}\0{join.seed}"
        name, data = hashlib.sha256(settings.encode()).hexdigest()[:16], None
    uri = store.path("models", f"quantiser-{name}.bin")
    filesystem, path = locate(uri)
    if not filesystem.exists(path):
        if data is None and pool.isEmpty():
            return Index(context, IndexKey(model))  # nothing to train lists on, and nothing to put into them
        put_whole(filesystem, path, data or _trained(pool, join.num_lists, join.sample, join.seed).to_bytes())
    return Index(context, IndexKey(model, _lists(uri).digest, min(join.spill, _lists(uri).num_lists)), uri)


def _check_lists(path: str, data: bytes, spill: int, pool: DataFrame) -> None:
    """Raise a ValueError where a file of the recipe holds no lists that the pool can be put in."""
    try:
        num_lists, dim = Quantiser.from_bytes(data).centroids.shape
    except ValueError as error:
        raise ValueError(f"recipe.dedup.join.quantiser.path={path}: {error}; name a file of some models/") from error
    if num_lists < spill:
        raise ValueError(
            f"recipe.dedup.join.spill={spill}: recipe.dedup.join.quantiser.path={path} has {num_lists} lists; "
            "lower spill, or name another file"
        )
    some = pool.select("vector").first()
    if some is not None and len(some["vector"]) != 2 * dim:
        raise ValueError(
            f"recipe.dedup.join.quantiser.path={path}: its lists are of vectors of {dim} values, but the model "
            f"gives {len(some['vector']) // 2}; name lists trained on this model, or leave the key out"
        )


def _trained(pool: DataFrame, num_lists: int, sample: int, seed: int) -> Quantiser:
    """Trained on the images that come first by id, which are a random sample; no more lists than they can train."""
    rows = by_id(pool, sample)
    num_lists = min(num_lists, max(len(rows) // _VECTORS_PER_LIST, 1))
    return Quantiser.train(matrix([bytes(row["vector"]) for row in rows]), num_lists, seed)


@lru_cache(1)
def _lists(uri: str) -> Quantiser:
    with open_uri(uri) as file:
        return Quantiser.from_bytes(file.read())


def _assigner(quantiser: str | None, spill: int) -> Any:
    """Rows (image_id, vector) -> a row for each list that the vector is in."""

    def assign(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if not batch.num_rows:
                continue
            lists = np.zeros((batch.num_rows, 1), np.int32)
            if quantiser is not None:
                lists = _lists(quantiser).ranked(matrix(batch.column("vector").to_pylist()), spill)
            packed = pa.array([row.tobytes() for row in lists.astype("<i4")], pa.binary())
            row = pa.array(np.repeat(np.arange(batch.num_rows), lists.shape[1]))
            columns = [
                pa.array(lists.ravel(), pa.int32()),
                pa.array(np.tile(np.arange(lists.shape[1]) > 0, batch.num_rows)),
                batch.column("image_id").take(row).cast(pa.string()),
                batch.column("vector").take(row).cast(pa.binary()),
                packed.take(row),
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=_ASSIGNED)

    return assign


def _shard_writer(store: str, folder: str, index: str, collection: str, snapshot: int) -> Any:
    """Rows in the order of shards and tiles -> shards, and a row of the catalogue for each tile."""

    def write(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        filesystem, root = locate(_uri(store, folder))
        filesystem.makedirs(root, exist_ok=True)
        for shard, found in groupby(_cut(batches), key=lambda entry: entry[0]):
            name, rows = f"shard-{shard:05d}.arrow", []

            def noted(found: Iterable[Any] = found, name: str = name, rows: list[Any] = rows) -> Iterator[Tile]:
                for number, (_, place, visiting, tile) in enumerate(found):
                    rows.append((index, collection, snapshot, f"{folder}/{name}", number, place, visiting, len(tile)))
                    yield tile

            with whole_file(filesystem, f"{root}/{name}") as file:
                write_tiles(file, noted())
            columns = [pa.array(column, field.type) for column, field in zip(zip(*rows), schema.TILES.schema)]  # noqa: B905
            yield pa.RecordBatch.from_arrays(columns, schema=schema.TILES.schema)

    return write


def _cut(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, int, bool, Tile]]:
    """(shard, list, visiting, tile) for every run of rows that have them and their part in common."""

    def tile(rows: Sequence[tuple[str, bytes, bytes]]) -> Tile:
        ids, vectors, lists = zip(*rows, strict=True)
        return Tile(pa.array(ids, pa.string()), matrix(vectors), matrix(lists, "<i4"))

    def key(row: tuple[Any, ...]) -> tuple[int, int, bool, int]:
        return row[:4]

    columns = ("shard", "list", "visiting", "part", "image_id", "vector", "lists")
    rows = (row for batch in batches for row in zip(*(batch.column(name).to_pylist() for name in columns), strict=True))
    for (shard, number, visiting, _), run in groupby(rows, key):
        pending: list[tuple[str, bytes, bytes]] = []
        for row in run:
            pending.append(row[4:])
            if len(pending) == TILE_ROWS:
                yield shard, number, visiting, tile(pending)
                pending = []
        if pending:
            yield shard, number, visiting, tile(pending)


def _planner(collection: str) -> Any:
    """The tiles of one list -> the pairs of blocks to join: one is at home there, and one is new."""

    def plan(group: pa.Table) -> pa.Table:
        rows = group.sort_by([(name, "ascending") for name in ("snapshot", "shard", "batch")]).to_pylist()

        def packed(name: str, new: bool, visiting: bool) -> list[Any]:
            chosen = [r for r in rows if (r["collection"], r["new"], r["visiting"]) == (name, new, visiting)]
            return blocks([((row["shard"], row["batch"]), row["num_rows"]) for row in chosen])

        pairs = []
        for left_new, right_new in product((True, False), repeat=2):
            for left_visits, right_visits in ((False, False), (False, True), (True, False)):
                left, right = packed(POOL, left_new, left_visits), packed(collection, right_new, right_visits)
                if collection != POOL:
                    pairs += product(left, right) if left_new or right_new else []
                elif left_visits:  # within the pool, either end may be called left
                    continue
                elif right_visits:
                    pairs += product(left, right) if left_new or right_new else []
                elif left_new:
                    pairs += combinations_with_replacement(left, 2) if right_new else product(left, right)
        columns = [
            pa.array([rows[0]["list"]] * len(pairs), pa.int32()),
            *(pa.array([_structs(pair[side]) for pair in pairs], _PLACES) for side in (0, 1)),
        ]
        return pa.Table.from_arrays(columns, schema=_BLOCK_PAIRS)

    return plan


def _joiner(roots: tuple[str, str], index: str, collection: str, threshold: float, ceiling: float | None) -> Any:
    """Pairs of blocks, each below its root -> edges above the threshold, less those found at the ceiling before."""

    def join(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        reader = Reader()
        for batch in batches:
            for row in batch.to_pylist():
                ends = [
                    tuple((_uri(root, at["shard"]), at["batch"]) for at in row[side])
                    for root, side in zip(roots, ("left", "right"), strict=True)
                ]
                left, right = reader.read(ends[0]), reader.read(ends[1])
                if ends[0] == ends[1]:
                    pairs = tiles.within(left.vectors, threshold)
                else:
                    pairs = tiles.between(left.vectors, right.vectors, threshold)
                if ceiling is not None:
                    pairs = pairs.select(pairs.similarity <= np.float32(ceiling))
                # two vectors may meet in the homes of both
                pairs = pairs.select(meeting_list(left.lists[pairs.left], right.lists[pairs.right]) == row["list"])
                for start in range(0, len(pairs), _EDGES_A_BATCH):
                    part = pairs.select(slice(start, start + _EDGES_A_BATCH))
                    yield _edges(index, collection, left.ids.take(pa.array(part.left)),
                                 right.ids.take(pa.array(part.right)), part.similarity)  # fmt: skip

    return join


def _edges(index: str, collection: str, left: pa.Array, right: pa.Array, similarity: np.ndarray) -> pa.RecordBatch:
    if collection == POOL:
        left, right = _in_order(left, right)
    columns = [
        pa.array([index] * len(left), pa.string()),
        pa.array([collection] * len(left), pa.string()),
        left,
        right,
        pa.array(similarity, pa.float32()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema.EDGES.schema)


def _searcher(names: list[str], queries: np.ndarray, threshold: float) -> Any:
    """Rows (image_id, vector) -> (query, lower_id, higher_id) for each that is above the threshold of a query."""

    def search(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        query = pa.array(names, pa.string())
        for batch in batches:
            if not batch.num_rows:
                continue
            ids = batch.column("image_id").cast(pa.string())
            pairs = tiles.between(queries, matrix(batch.column("vector").to_pylist()), threshold)
            left, right = query.take(pa.array(pairs.left)), ids.take(pa.array(pairs.right))
            other = pa.compute.not_equal(left, right)
            left, right = left.filter(other), right.filter(other)
            yield pa.RecordBatch.from_arrays([left, *_in_order(left, right)], schema=_FOUND)

    return search


def _in_order(left: pa.Array, right: pa.Array) -> tuple[pa.Array, pa.Array]:
    """The lower and the higher id of every pair."""
    is_lower = pa.compute.less(left, right)
    return pa.compute.if_else(is_lower, left, right), pa.compute.if_else(is_lower, right, left)


def _structs(places: Iterable[tuple[str, int]]) -> list[dict[str, Any]]:
    return [{"shard": shard, "batch": batch} for shard, batch in places]


def _uri(store: str, name: str) -> str:
    """Where something is that a table names relative to its store."""
    return f"{store.rstrip('/')}/{name}"


def _as_number(threshold: float) -> int:
    """A whole number that grows as a threshold falls, and stands for this float32 alone."""
    bits = int(np.float32(threshold).view(np.int32))
    return _LOWEST - (bits if bits >= 0 else bits ^ 0x7FFFFFFF)


def _as_threshold(number: int) -> float:
    bits = _LOWEST - number
    return float(np.array(bits if bits >= 0 else bits ^ 0x7FFFFFFF, np.int64).astype(np.int32).view(np.float32))
