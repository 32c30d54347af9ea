"""float16 in compiled loops, which have no such type: its bits as whole numbers."""

import numpy as np

from curation.neighbours.compiled import compiled

_HALF_TO_SINGLE = np.float32(2.0**112)  # a float16's exponent, read as a float32's, is too small by this factor


@compiled
def widen(halves: np.ndarray, singles: np.ndarray) -> bool:
    """Convert float16 to float32, exactly; to be called from compiled code.

    Args:
        halves: [d] uint16, the bits.
        singles: [d] float32 that takes the numbers.

    Returns:
        whether all are finite.
    """
    bits = singles.view(np.uint32)
    highest = np.uint16(0)
    for i in range(len(singles)):  # each of these loops is vectorised
        size = halves[i] & np.uint16(0x7FFF)
        highest = max(highest, size)
        bits[i] = np.uint32(size) << np.uint32(13)
    for i in range(len(singles)):
        singles[i] *= _HALF_TO_SINGLE
    finite = highest < np.uint16(0x7C00)
    if not finite:
        for i in range(len(singles)):
            if halves[i] & np.uint16(0x7C00) == np.uint16(0x7C00):
                bits[i] |= np.uint32(0x7F800000)
    for i in range(len(singles)):
        bits[i] |= np.uint32(halves[i] & np.uint16(0x8000)) << np.uint32(16)
    return bool(finite)
