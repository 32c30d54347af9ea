"""Score normalisation: a picture that resembles everything must resemble its copy more (SSCD, section 5).

From a similarity is taken how much a picture resembles its nearest neighbours in a background that holds none of its
copies. A text page or a blue sky has many near neighbours there, a photograph of a crowd none, so that one threshold
suits both. Biases are never negative, so no pair rises: whatever passes a threshold after normalisation has
passed it before, and a join at that threshold misses nothing.
"""

import numpy as np

from curation.neighbours import knn

NUM_NEIGHBOURS = 3  # SSCD's choice on DISC
WEIGHT = 1.0


def bias(
    vectors: np.ndarray, background: np.ndarray, num_neighbours: int = NUM_NEIGHBOURS, weight: float = WEIGHT
) -> np.ndarray:
    """What normalisation takes from every similarity of a picture.

    Args:
        vectors: [n, d] unit vectors.
        background: [b, d] unit vectors of the same dtype, of pictures that are no copies of those.
        num_neighbours: nearest background pictures whose similarities are averaged.
        weight: share of that mean which is taken.

    Returns:
        [n] float32, at least 0; the bits depend on the vector and the background alone.

    Raises:
        ValueError: the background has fewer pictures than neighbours are asked for.
    """
    if len(background) < num_neighbours:
        raise ValueError(
            f"a background of {len(background)} pictures has no {num_neighbours} neighbours; give a larger one"
        )
    found = knn.nearest(background, vectors, num_neighbours)
    mean = found.similarity.reshape(len(vectors), num_neighbours).astype(np.float64).sum(axis=1) / num_neighbours
    return np.maximum(weight * mean, 0).astype(np.float32)


def normalised(similarities: np.ndarray, bias_left: np.ndarray, bias_right: np.ndarray | None = None) -> np.ndarray:
    """Similarities of pairs less their biases.

    Args:
        similarities: [m] float32 of pairs.
        bias_left: [m] of the pairs' first pictures.
        bias_right: [m] of the second; then half of both counts, so that the order within a pair does not matter.
            None takes the first's alone, as SSCD does of a query.

    Returns:
        [m] float32.
    """
    if bias_right is None:
        return (similarities - bias_left).astype(np.float32)
    return (similarities - (bias_left + bias_right) / 2).astype(np.float32)
