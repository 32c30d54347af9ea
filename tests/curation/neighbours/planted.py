"""Vectors with planted groups, for the tests of the joins."""

import numpy as np


def planted(num_vectors: int, dim: int, seed: int, group: int = 5) -> np.ndarray:
    """[n, d] float32 of unit length in random order: groups around random centres, similar to 0.4 and more."""
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((num_vectors // group + 1, dim))
    noise = generator.standard_normal((num_vectors, dim)) * generator.uniform(0, 1, (num_vectors, 1))
    vectors = centres[generator.permutation(num_vectors) // group] + noise
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
