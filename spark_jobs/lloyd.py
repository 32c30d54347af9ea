"""Rounds of k-means as Spark stages, for training points that one machine cannot hold.

Points lie in parts that tasks read chunk by chunk. A task adds up its members by blocks of clusters, and blocks are
added up by key: whole numbers, so neither parts nor order show in the result, which is that of
``curation.clusters.kmeans.Lloyd``.
"""

import json
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql.pandas.types import from_arrow_schema

from curation.clusters.kmeans import normalised, partial_sums, refill, refills, spreads
from curation.clusters.nearest import Nearest, Places, chunk_rows
from curation.clusters.points import StoredPoints
from curation.store import locate
from curation.whole_files import put_whole
from spark_jobs.rounds import Rounds
from spark_jobs.vectors import matrix

_Task = Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]  # as mapInArrow takes it
_BLOCK_BYTES = 2**23  # of the sums in a row
_WRITTEN = pa.schema([("name", pa.string())])
_SUMS = pa.schema([("block", pa.int32()), ("sums", pa.binary()), ("counts", pa.binary())])
_MEANS = pa.schema([("block", pa.int32()), *((name, pa.binary()) for name in ("vectors", "counts", "spreads"))])
_WORST = pa.schema(
    [("cluster", pa.int32()), ("similarity", pa.float32()), ("image_id", pa.string()), ("vector", pa.binary())]
)


class SparkLloyd:
    """Rounds over the points of a frame, which are written down in parts once."""

    def __init__(self, points: DataFrame, partitions: int, rounds: Rounds) -> None:
        """Write the parts, unless a killed run has left all of them.

        Args:
            points: columns image_id and vector (float16 bytes).
            partitions: tasks of a round.
            rounds: of the run; beside them lie the parts, in a folder that all executors see.
        """
        self._spark, self._partitions, self._rounds = points.sparkSession, partitions, rounds
        filesystem, folder = locate(f"{rounds.uri}/points")
        if not filesystem.exists(f"{folder}/parts.json"):
            shutil.rmtree(folder, ignore_errors=True)
            filesystem.makedirs(folder, exist_ok=True)
            spread = points.select("image_id", "vector").repartition(partitions, "image_id")
            written = spread.mapInArrow(_writer(folder), from_arrow_schema(_WRITTEN)).collect()
            names = sorted(row["name"] for row in written)
            put_whole(filesystem, f"{folder}/parts.json", json.dumps(names).encode())
        with filesystem.open(f"{folder}/parts.json", "rb") as file:
            self._parts = [f"{folder}/{name}" for name in json.load(file)]

    def improved(self, centroids: np.ndarray, share: float = 0.0) -> np.ndarray:
        """One round: [k, d] float32 centroids, which are the last of the rounds, to those of the next."""
        dim = centroids.shape[1]
        width = max(1, _BLOCK_BYTES // (8 * dim))
        sums = self._of_parts(_adder(self._rounds, width), _SUMS)
        means = sums.groupBy("block").applyInArrow(_mean(self._rounds, width), from_arrow_schema(_MEANS))
        rows = means.toArrow().sort_by("block").to_pylist()
        new = np.concatenate([matrix_of(row["vectors"], dim) for row in rows])
        counts = np.concatenate([np.frombuffer(row["counts"], "<i8") for row in rows])
        spread = np.concatenate([np.frombuffer(row["spreads"], "<f8") for row in rows])
        assert new.shape == centroids.shape
        weak, donors = refills(counts, spread, share)
        refill(new, weak, donors, self._worst(donors))
        return new

    def _worst(self, donors: dict[int, int]) -> np.ndarray:
        """[m, d] the worst-placed members of some clusters, in the order of the clusters."""
        if not donors:
            return np.empty((0, 0), np.float32)
        found = self._of_parts(_worst_of(self._rounds, donors), _WORST).toArrow().to_pylist()
        vectors = []
        for cluster, wanted in donors.items():
            mine = [row for row in found if row["cluster"] == cluster]
            mine.sort(key=lambda row: (row["similarity"], row["image_id"]))
            vectors += [row["vector"] for row in mine[:wanted]]
        return matrix(vectors).astype(np.float32)

    def _of_parts(self, task: _Task, kind: pa.Schema) -> DataFrame:
        rows = self._spark.createDataFrame([(part,) for part in self._parts], "part string")
        return rows.repartition(self._partitions, "part").mapInArrow(task, from_arrow_schema(kind))


def matrix_of(data: bytes, dim: int) -> np.ndarray:
    """[n, dim] float32 of the bytes of all rows."""
    return np.frombuffer(data, "<f4").reshape(-1, dim)


def _writer(folder: str) -> _Task:
    def write(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if batch.num_rows:
                name = uuid.uuid4().hex
                np.save(f"{folder}/{name}.npy", matrix(batch.column("vector").to_pylist()))
                np.save(f"{folder}/{name}.ids.npy", np.array(batch.column("image_id").to_pylist(), np.str_))
                yield pa.RecordBatch.from_pylist([{"name": f"{name}.npy"}], schema=_WRITTEN)

    return write


def _assigned(batches: Iterable[pa.RecordBatch], centroids: np.ndarray) -> Iterator[tuple[str, StoredPoints, Places]]:
    """The parts that batches name, and where their points belong."""
    nearest = Nearest(centroids)
    for batch in batches:
        for part in batch.column("part").to_pylist():
            points = StoredPoints(Path(part))
            places, step = Places.unknown(len(points)), chunk_rows(points.shape[1])
            for start in range(0, len(points), step):
                nearest.update(points[start : start + step], places.rows(start, start + step))
            yield part, points, places


def _adder(rounds: Rounds, width: int) -> _Task:
    """Parts -> sums and counts of each block of ``width`` clusters, over all parts of the task."""

    def add(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        centroids = rounds.last()
        k, dim = centroids.shape
        assigned = [(points, places.clusters) for _, points, places in _assigned(batches, centroids)]
        for block, first in enumerate(range(0, k, width)):
            num = min(width, k - first)
            sums, counts = np.zeros((num, dim), np.int64), np.zeros(num, np.int64)
            for points, clusters in assigned:
                rows = np.flatnonzero((clusters >= first) & (clusters < first + num))
                for vectors, mine in _some(points, rows):
                    more = partial_sums(vectors, clusters[mine] - first, num)
                    sums, counts = sums + more[0], counts + more[1]
            row = {"block": block, "sums": sums.tobytes(), "counts": counts.tobytes()}
            yield pa.RecordBatch.from_pylist([row], schema=_SUMS)

    return add


def _some(points: StoredPoints, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Some rows of stored points, chunk by chunk, with their numbers."""
    step = chunk_rows(points.shape[1])
    for chunk, mine in enumerate(np.split(rows, np.searchsorted(rows, range(step, len(points), step)))):
        if len(mine):
            yield points[chunk * step : (chunk + 1) * step][mine - chunk * step], mine


def _mean(rounds: Rounds, width: int) -> Callable[[pa.Table], pa.Table]:
    """The sums of one block by all tasks -> its centroids."""

    def mean(group: pa.Table) -> pa.Table:
        block = group["block"][0].as_py()
        before = rounds.last()[block * width : (block + 1) * width]
        sums, counts = np.zeros(before.shape, np.int64), np.zeros(len(before), np.int64)
        for batch in group.to_batches():
            for part in range(batch.num_rows):
                sums += np.frombuffer(batch["sums"][part].as_buffer(), "<i8").reshape(sums.shape)
                counts += np.frombuffer(batch["counts"][part].as_buffer(), "<i8")
        row = {
            "block": block,
            "vectors": normalised(sums, before).tobytes(),
            "counts": counts.tobytes(),
            "spreads": spreads(sums, counts, before).tobytes(),
        }
        return pa.Table.from_pylist([row], schema=_MEANS)

    return mean


def _worst_of(rounds: Rounds, donors: dict[int, int]) -> _Task:
    """Parts -> as many of the worst-placed members of each donor as it gives at most."""

    def worst(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for part, points, places in _assigned(batches, rounds.last()):
            ids = np.load(part.removesuffix(".npy") + ".ids.npy")
            rows = []
            for cluster, wanted in donors.items():
                members = np.flatnonzero(places.clusters == cluster)
                order = np.lexsort((ids[members], places.similarities[members]))[:wanted]
                rows += [
                    {
                        "cluster": cluster,
                        "similarity": float(places.similarities[row]),
                        "image_id": str(ids[row]),
                        "vector": points[row : row + 1].tobytes(),
                    }
                    for row in members[order].tolist()
                ]
            yield pa.RecordBatch.from_pylist(rows, schema=_WORST)

    return worst
