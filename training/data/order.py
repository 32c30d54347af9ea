"""The order of the samples: a shuffle of every epoch that can be entered anywhere in O(1) time and memory."""

_ROUNDS = 4
_MASK = (1 << 64) - 1


def sample_at(counter: int, num_samples: int, seed: int) -> int:
    """The sample to show at ``counter``, the number of samples shown before it.

    Epoch e is a permutation of ``range(num_samples)`` keyed by (seed, e): a Feistel network over the next power of
    four, walked until it lands inside the range (Black and Rogaway, 2002). Nothing is stored and nothing is skipped.
    """
    epoch, position = divmod(counter, num_samples)
    half = max((num_samples - 1).bit_length() + 1, 2) // 2
    position = _permute(position, half, seed, epoch)
    while position >= num_samples:
        position = _permute(position, half, seed, epoch)
    return position


def _permute(value: int, half: int, seed: int, epoch: int) -> int:
    low = (1 << half) - 1
    left, right = value >> half, value & low
    for number in range(_ROUNDS):
        key = _mix(_mix(_mix(seed) ^ epoch) ^ (number << half | right))
        left, right = right, left ^ (key & low)
    return left << half | right


def _mix(x: int) -> int:
    """SplitMix64's finaliser: 64 bits in, 64 well-mixed bits out."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & _MASK
    return x ^ x >> 31
