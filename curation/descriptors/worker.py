"""The worker: places of encoded images in, rows of an embeddings table out. The same under Spark, SLURM and alone.

Threads share the work by batches: each of them decodes a batch and gives it to the network, so that one decodes while
another computes. On a CPU each thread's passes run on that thread alone, which needs no waiting for each other and
makes the vectors independent of the number of threads; a GPU takes one pass at a time.
"""

import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any, NamedTuple

import cv2
import numpy as np

from curation.descriptors.base import Embedder
from curation.images.decode import DecodeError, decode

Row = dict[str, Any]
Read = Callable[[str, int, int], bytes]  # as of Store.shard_reader


class Place(NamedTuple):
    """Where an encoded image lies, as in the ``images`` table."""

    image_id: str
    shard: str
    offset_bytes: int
    size_bytes: int


@dataclass
class Effort:
    """Where the time went: seconds of all threads together.

    Attributes:
        images: looked at.
        failed: of them, those without a vector.
        read_s: waiting for the bytes.
        decode_s: decoding and preprocessing.
        model_s: in the network, or waiting for its turn on a GPU.
        write_s: writing rows.
    """

    images: int = 0
    failed: int = 0
    read_s: float = 0.0
    decode_s: float = 0.0
    model_s: float = 0.0
    write_s: float = 0.0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, float]:
        return self.values()

    def __setstate__(self, values: dict[str, float]) -> None:
        self.__init__(**values)  # type: ignore[misc]

    def values(self) -> dict[str, float]:
        """The fields by name."""
        return {name.name: getattr(self, name.name) for name in fields(self)}

    def add(self, **values: float) -> None:
        """Add to some of the fields, from any thread."""
        with self._lock:
            for name, value in values.items():
                setattr(self, name, getattr(self, name) + value)

    def shares(self) -> dict[str, float]:
        """The share of each kind of work in the seconds of all."""
        seconds = {name: getattr(self, f"{name}_s") for name in ("read", "decode", "model", "write")}
        total = sum(seconds.values()) or 1.0
        return {f"{name}_share": round(value / total, 6) for name, value in seconds.items()}

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to the field ``name``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(**{name: time.perf_counter() - start})


def embedded(
    places: Iterable[Place], read: Read, embedder: Embedder, max_pixels: int, threads: int, effort: Effort
) -> Iterator[list[Row]]:
    """Embed images, a batch at a time and in their order.

    Args:
        places: in the order of their shards, which is the order they are read in.
        read: gives the bytes of a place; called by the caller's thread only.
        embedder: shared by all threads.
        max_pixels: of a picture.
        threads: at least 1; no row depends on it.
        effort: takes up where the time goes.

    Yields:
        Rows of ``schema.embeddings`` (image_id, vector as little-endian fp16, model, error): one for every image, with
        an error in place of the vector where it gives none.

    Raises:
        OSError: a shard cannot be read, which says nothing of its images.
    """
    work = iter(places)
    with ThreadPoolExecutor(threads, "embed", initializer=_one_thread_each) as pool:
        waiting: deque[Future[list[Row]]] = deque()
        try:
            while True:
                while len(waiting) <= threads and (some := list(islice(work, embedder.batch_size))):
                    with effort.timed("read_s"):
                        encoded = [(p.image_id, read(p.shard, p.offset_bytes, p.size_bytes)) for p in some]
                    waiting.append(pool.submit(embed_batch, encoded, embedder, max_pixels, effort))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def embed_batch(encoded: list[tuple[str, bytes]], embedder: Embedder, max_pixels: int, effort: Effort) -> list[Row]:
    """Decode and embed (image_id, encoded bytes) as one batch; one row each, in order."""
    rows: list[Row] = [
        {"image_id": image_id, "vector": None, "model": embedder.digest, "error": None} for image_id, _ in encoded
    ]
    inputs, shown = [], []
    with effort.timed("decode_s"):
        for row, (_, data) in zip(rows, encoded, strict=True):
            try:
                inputs.append(embedder.preprocess(decode(data, max_pixels, min_side=embedder.min_side).image))
                shown.append(row)
            except DecodeError as error:
                row["error"] = str(error)
            except MemoryError:  # of one picture; the others of the batch have done nothing
                row["error"] = "there is not enough memory to decode the picture"
    if inputs:
        with effort.timed("model_s"):
            vectors = embedder.embed(np.stack(inputs)).astype("<f2")
        for row, vector in zip(shown, vectors, strict=True):
            if np.isfinite(vector).all():
                row["vector"] = vector.tobytes()
            else:
                row["error"] = "the model gives a vector that is not finite"
    effort.add(images=len(rows), failed=sum(row["vector"] is None for row in rows))
    return rows


def _one_thread_each() -> None:
    """Keep libraries from starting threads of their own beside the worker's."""
    cv2.setNumThreads(1)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
