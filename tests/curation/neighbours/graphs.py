"""Random graphs of similar images for the tests of this package."""

import numpy as np
from scipy.sparse import coo_array, csr_array

from curation.neighbours.similarity import pair_similarities


def by_chance(seed, num_nodes=60, num_edges=45):
    """Ids, distinct edges, similarities with many ties, and the generator."""
    rng = np.random.default_rng(seed)
    ids = np.array([f"{i:04x}" for i in range(num_nodes)])
    edges = np.array(sorted({tuple(sorted(rng.choice(num_nodes, 2, replace=False))) for _ in range(num_edges)}))
    return ids, edges, rng.integers(60, 70, len(edges)).astype(np.float32) / 100, rng


def of_vectors(seed, threshold, num_groups=12, dimension=16):
    """Unit vectors in chained groups, and all pairs above the threshold by brute force."""
    rng = np.random.default_rng(seed)
    vectors = []
    for _ in range(num_groups):
        vector = rng.normal(size=dimension)
        for _ in range(rng.integers(1, 8)):  # each a step away from the last, so that the ends drift apart
            vectors.append(vector / np.linalg.norm(vector))
            vector = vectors[-1] + rng.normal(size=dimension) * 0.15
    vectors = np.array(vectors, np.float16)
    left, right = np.triu_indices(len(vectors), 1)
    similarities = pair_similarities(vectors[left], vectors[right])
    above = similarities > np.float32(threshold)
    return vectors, np.stack([left, right], 1)[above], similarities[above], rng


def matrix(num_nodes, edges) -> csr_array:
    """The symmetric adjacency matrix."""
    graph = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(num_nodes, num_nodes)).tocsr()
    return graph + graph.T
