"""An order that has nothing to do with content and does not move when images are added."""

import hashlib
from collections.abc import Iterable

import numpy as np


def hash_order(image_ids: Iterable[str], seed: int, name: str) -> np.ndarray:
    """Place of every image in an order that only its id, the seed and a name decide.

    Taking the lowest n is a sample without replacement; an image that arrives later displaces at most one.

    Args:
        image_ids: of the images.
        seed: another gives another order.
        name: of the query set, so that two that draw from one cluster do not draw the same images.

    Returns:
        [n] uint64 keys, to be sorted ascending.
    """
    prefix = f"{seed}:{name}:".encode()
    digests = b"".join(hashlib.blake2b(prefix + i.encode(), digest_size=8).digest() for i in image_ids)
    return np.frombuffer(digests, ">u8").astype(np.uint64)
