"""Embedding tables as arrays, and as files that every executor can map into memory."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame

from curation.neighbours import knn
from curation.schema import POOL
from curation.store import Store

SLICE = 1024  # queries a task searches at once; results do not depend on it


@dataclass(frozen=True)
class Vectors:
    """Images and their vectors, by ascending id: ``ids`` [n] str, ``vectors`` [n, d] float16."""

    ids: np.ndarray
    vectors: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def float32(self) -> np.ndarray:
        """[n, d] float32."""
        return self.vectors.astype(np.float32)


def load(store: Store, model: str, collection: str, ids: pa.Array | None = None) -> Vectors:
    """The vectors of one collection by the current model of a name, each image once.

    Args:
        store: embedded.
        model: a name of ``recipe.embed.models``.
        collection: a set's name, or "pool".
        ids: of the pool: those wanted, since its vectors stay when an image leaves it.
    """
    if collection != POOL:
        members = store.table("collections", columns=["image_id"], filter=pc.field("collection") == collection)
        ids = pc.unique(members["image_id"])
    assert ids is not None, "the table holds vectors of images that are no longer in the pool"
    digest = store.runs()["embed"].metrics[model]["digest"]
    wanted = (pc.field("model") == digest) & pc.field("vector").is_valid() & pc.field("image_id").isin(ids)
    table = store.table(f"embeddings_{model}", columns=["image_id", "vector"], filter=wanted).sort_by("image_id")
    names = np.asarray(table["image_id"].to_pylist(), dtype=np.str_)
    flat = np.frombuffer(b"".join(table["vector"].to_pylist()), "<f2")
    return Vectors(names, flat.reshape(len(names), -1) if len(names) else np.empty((0, 1), "<f2"))


def ids_of(frame: DataFrame) -> pa.Array:
    """The ``image_id`` column of a frame, collected."""
    return pa.array([row["image_id"] for row in frame.select("image_id").collect()], pa.string())


def publish(folder: Path, name: str, vectors: Vectors) -> None:
    """Write ids, vectors and a FAISS index below ``folder`` for the executors."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{name}.ids.npy", vectors.ids)
    np.save(folder / f"{name}.vectors.npy", vectors.float32())
    knn.save(knn.build(vectors.float32()), folder / f"{name}.faiss")


def ids_at(folder: Path, name: str) -> np.ndarray:
    """The ids that ``publish`` wrote."""
    return np.load(folder / f"{name}.ids.npy", mmap_mode="r", allow_pickle=False)


def vectors_at(folder: Path, name: str) -> np.ndarray:
    """The float32 vectors that ``publish`` wrote."""
    return np.load(folder / f"{name}.vectors.npy", mmap_mode="r", allow_pickle=False)
