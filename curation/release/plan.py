"""Which image goes into which shard, and in which order."""

import numpy as np
import pyarrow as pa

from curation.release.shards import BLOCK_BYTES

_FAR_OFF = 2  # how many times larger or smaller than wished shards may have become before all are cut anew


def fitting_shards(size_bytes: np.ndarray, target_bytes: int, previous: int | None = None) -> int:
    """How many shards are to be made.

    Args:
        size_bytes: [N] integers, the encoded size of each image.
        target_bytes: wished size of a tar; the metadata members are not counted.
        previous: of the release before. It stays while shards are between half and twice the wished size, so that what
            joins or leaves a set touches its own shards only.

    Raises:
        ValueError: the target is not positive.
    """
    if target_bytes <= 0:
        raise ValueError(f"target_bytes = {target_bytes}: must be positive")
    blocks = -(-np.asarray(size_bytes, np.int64) // BLOCK_BYTES) + 1  # the padded data and its header
    wished = int(blocks.sum()) * BLOCK_BYTES / target_bytes
    if previous is not None and previous / _FAR_OFF <= wished <= previous * _FAR_OFF:
        return previous
    return max(1, round(wished))


def plan(image_ids: list[str], num_shards: int, seed: int) -> pa.Table:
    """Shuffle the images by a hash of (seed, image_id); a shard is a range of that hash.

    An image's shard follows from its id alone: whoever joins or leaves moves nobody else to another one. Since hashes
    are spread evenly, so are the images (of a thousand a shard, within some 3 %), and a sequential read of any run of
    shards is a fair sample. A range into which no image falls has no shard, and its number stays unused.

    Args:
        image_ids: ids, each once, 32 hex digits.
        num_shards: ranges, of equal width.
        seed: another seed gives another order.

    Returns:
        Columns image_id, shard (int32), position (int32, within the shard), in release order.

    Raises:
        ValueError: an id is not 32 hex digits or comes twice, or there is no shard.
    """
    if not 0 < num_shards < 2**31:
        raise ValueError(f"num_shards = {num_shards}: give 1 or more")
    words = _words(image_ids)
    key = _mix(words[:, 0] ^ _mix(np.array([seed % 2**64], np.uint64)))
    order = np.lexsort((words[:, 1], words[:, 0], key))  # the id itself breaks ties of the key
    ordered = words[order]
    if len(ordered) > 1 and (same := np.all(ordered[1:] == ordered[:-1], axis=1)).any():
        raise ValueError(f"image id {image_ids[order[int(same.argmax())]]} comes twice; plan each image once")
    shard = ((key[order] >> np.uint64(32)) * np.uint64(num_shards) >> np.uint64(32)).astype(np.int64)
    first = np.searchsorted(shard, shard)  # row at which each shard begins
    return pa.table(
        {
            "image_id": pa.array(image_ids, pa.string()).take(pa.array(order)),
            "shard": pa.array(shard, pa.int32()),
            "position": pa.array(np.arange(len(order)) - first, pa.int32()),
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
