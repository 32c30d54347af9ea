"""Which image goes into which shard, and in which order."""

import numpy as np
import pyarrow as pa

from curation.release.shards import BLOCK_BYTES


def plan(image_ids: list[str], size_bytes: np.ndarray, shard_target_bytes: int, seed: int) -> pa.Table:
    """Shuffle the images by a hash of (seed, image_id) and cut the sequence into shards of about the target size.

    The result depends on the set of images alone, not on the order or the partitions they arrive in. A sequential
    read of any run of shards is therefore a fair sample. Shards are cut to equal sizes, so there is no stub at the
    end, and a shard exceeds its share by less than one image.

    Args:
        image_ids: ids, each once, 32 hex digits.
        size_bytes: [N] integers, the encoded size of each image.
        shard_target_bytes: wished size of one tar; the metadata members are not counted.
        seed: another seed gives another order.

    Returns:
        Columns image_id, shard (int32), position (int32, within the shard), in release order.

    Raises:
        ValueError: an id is not 32 hex digits or comes twice, lengths differ, or the target is not positive.
    """
    if shard_target_bytes <= 0:
        raise ValueError(f"shard_target_bytes = {shard_target_bytes}: must be positive")
    if len(image_ids) != len(size_bytes):
        raise ValueError(f"{len(image_ids)} image ids but {len(size_bytes)} sizes; pass one size for each image")
    words = _words(image_ids)
    key = _mix(words[:, 0] ^ _mix(np.array([seed % 2**64], np.uint64)))
    order = np.lexsort((words[:, 1], words[:, 0], key))  # the id itself breaks ties of the key
    ordered = words[order]
    if len(ordered) > 1 and (same := np.all(ordered[1:] == ordered[:-1], axis=1)).any():
        raise ValueError(f"image id {image_ids[order[int(same.argmax())]]} comes twice; plan each image once")

    blocks = -(-np.asarray(size_bytes, np.int64)[order] // BLOCK_BYTES) + 1  # the padded data and its header
    starts = np.cumsum(blocks) - blocks
    total = int(blocks.sum())
    num_shards = max(1, round(total * BLOCK_BYTES / shard_target_bytes))
    cut = starts * num_shards // max(total, 1)
    _, first, shard = np.unique(cut, return_index=True, return_inverse=True)  # a huge image may leave a gap: close it
    return pa.table(
        {
            "image_id": pa.array(image_ids, pa.string()).take(pa.array(order)),
            "shard": pa.array(shard, pa.int32()),
            "position": pa.array(np.arange(len(order)) - first[shard], pa.int32()),
        }
    )


def shard_name(number: int) -> str:
    """File name of a shard within the release."""
    return f"{number:05d}.tar"


def _words(image_ids: list[str]) -> np.ndarray:
    """[N, 2] uint64: the 128 bits of each id."""
    wrong = next((i for i in image_ids if len(i) != 32), None)
    try:
        digits = bytes.fromhex("".join(image_ids))
    except ValueError:
        wrong, digits = next(i for i in image_ids if set(i) - set("0123456789abcdef")), b""
    if wrong is not None:
        raise ValueError(f"image id {wrong!r} is not 32 lowercase hex digits")
    return np.frombuffer(digits, ">u8").astype(np.uint64).reshape(-1, 2)


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64: a bijection on uint64 that spreads every bit."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
