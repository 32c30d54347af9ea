"""Unit vectors, many of them equal, and whether two searches of them found the same."""

import numpy as np


def unit_vectors(n, d=32, seed=0, clones=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, d))
    vectors[rng.integers(0, n, clones)] = vectors[0]  # more equal vectors than a search asks for
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(dtype)


def same_matches(one, other):
    return all(getattr(one, n).tobytes() == getattr(other, n).tobytes() for n in ("query", "row", "similarity"))
