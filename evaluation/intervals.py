"""How sure a proportion is, and whether two classifiers differ on the same images."""

import math
from statistics import NormalDist


def wilson(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson, 1927), as fractions.

    Raises:
        ValueError: ``correct`` is not within 0..n, or n is 0.
    """
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"{correct} correct of {n}: an interval needs 0 <= correct <= n and n > 0")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = correct / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # The ends are exact where the proportion is: rounding must not exclude it.
    return (0.0 if correct == 0 else centre - half), (1.0 if correct == n else centre + half)


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p value that two classifiers err equally often on the same images (McNemar, 1947).

    Args:
        only_first: images that only the first classifier answers correctly.
        only_second: images that only the second answers correctly.
    """
    discordant = only_first + only_second
    term, tail = 1, 1
    for i in range(min(only_first, only_second)):
        term = term * (discordant - i) // (i + 1)
        tail += term
    return min(1.0, 2 * tail / 2**discordant)
