"""An order that has nothing to do with content and does not move when images are added."""

import hashlib
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Ids: TypeAlias = Sequence[str] | np.ndarray | pa.Array | pa.ChunkedArray
_STEP = 1 << 16  # ids that are Python strings at a time


def hash_order(image_ids: Ids, seed: int, name: str) -> np.ndarray:
    """Place of every image in an order that only its id, the seed and a name decide.

    Taking the lowest n is a sample without replacement; an image that arrives later displaces at most one.

    Args:
        image_ids: [n] of the images.
        seed: another gives another order.
        name: of the query set, so that two that draw from one cluster do not draw the same images.

    Returns:
        [n] uint64 keys, to be sorted ascending.
    """
    ids, prefix = as_arrow(image_ids), f"{seed}:{name}:".encode()
    keys = np.empty(len(ids), np.uint64)
    for start in range(0, len(ids), _STEP):
        some = ids.slice(start, _STEP).to_pylist()
        digests = b"".join([hashlib.blake2b(prefix + i.encode(), digest_size=8).digest() for i in some])
        keys[start : start + len(some)] = np.frombuffer(digests, ">u8")
    return keys


def ranked(image_ids: Ids, clusters: np.ndarray, seed: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Images by cluster, those of a cluster in their hash order.

    Args:
        image_ids: [n], distinct.
        clusters: [n] of every image.
        seed: of the hash order.
        name: of the hash order.

    Returns:
        [n] rows in that order, and [n] their ranks in their clusters, from 1.
    """
    keys = hash_order(image_ids, seed, name)
    order = np.lexsort((keys, clusters))
    begins = np.ones(len(order), np.bool_)  # of a cluster
    begins[1:] = clusters[order[1:]] != clusters[order[:-1]]
    if np.any(~begins[1:] & (keys[order[1:]] == keys[order[:-1]])):  # two with one hash: by id
        by_id = np.empty(len(order), np.int64)
        by_id[pc.array_sort_indices(as_arrow(image_ids)).to_numpy()] = np.arange(len(order))
        order = np.lexsort((by_id, keys, clusters))
    first = np.flatnonzero(begins)
    return order, np.arange(len(order)) - np.repeat(first, np.diff(first, append=len(order))) + 1


def as_arrow(image_ids: Ids) -> pa.Array | pa.ChunkedArray:
    """Ids as strings of Arrow; a column may hold more of these than Python has room for."""
    return image_ids if isinstance(image_ids, pa.Array | pa.ChunkedArray) else pa.array(image_ids, pa.string())
