"""Which image of a group of near-duplicates stays, and which images go because of an evaluation set."""

from typing import Literal

import numpy as np
import pyarrow as pa

from curation.neighbours.components import connected_components
from curation.schema import COMPONENTS

RELATIVE = pa.schema(
    [
        ("image_id", pa.string()),  # a pool image that goes
        ("reference", pa.string()),  # the evaluation image that is the reason
        ("similarity", pa.float32()),  # between the reference and `via`, or the image itself where `via` is null
        ("via", pa.string()),  # null for a direct edge; else the image of the same component that has one
    ]
)


def preference(image_ids: np.ndarray, width: np.ndarray, height: np.ndarray, size_bytes: np.ndarray) -> np.ndarray:
    """Order images by how much they deserve to represent their duplicates.

    The largest short side first, then the most bytes per pixel (the least compressed), then the lowest content id.

    Returns:
        [n] int64: 0 for the best image, n - 1 for the last.
    """
    width, height = np.asarray(width, np.int64), np.asarray(height, np.int64)
    bytes_per_pixel = np.asarray(size_bytes, np.float64) / np.maximum(width * height, 1)
    order = np.lexsort((np.asarray(image_ids, str), -bytes_per_pixel, -np.minimum(width, height)))
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    return ranks


def resolve(image_ids: np.ndarray, edges: np.ndarray, similarities: np.ndarray, ranks: np.ndarray) -> pa.Table:
    """Components of near-duplicates, each with the image that stays (paper, section 3: self-deduplication).

    Args:
        image_ids: [n] strings, ascending; a node is a position in it.
        edges: [m, 2] pairs of nodes, no loops; order, direction and repetition do not matter.
        similarities: [m] float32.
        ranks: [n] as ``preference`` gives them; the lowest of a component represents it.

    Returns:
        Rows as in ``curation.schema.COMPONENTS`` for every image with an edge, by image id. The witness is the
        representative where there is an edge to it, else the most similar neighbour (ties: the lower id).

    Raises:
        ValueError: the ids are not ascending, or an edge names an unknown node.
    """
    image_ids = _ascending(image_ids)
    edges = np.asarray(edges, np.int64).reshape(-1, 2)
    component = connected_components(len(image_ids), edges)
    best = np.full(len(image_ids), len(image_ids), np.int64)
    np.minimum.at(best, component, ranks)
    node_of_rank = np.empty(len(image_ids), np.int64)
    node_of_rank[ranks] = np.arange(len(image_ids))

    node, other, similarity = _both_ways(edges, similarities)
    representative = node_of_rank[best[component[node]]]
    node, first = _first_of_each(node, (other, -similarity, other != representative))
    return pa.Table.from_arrays(
        [
            pa.array(image_ids[node], pa.string()),
            pa.array(image_ids[component[node]], pa.string()),
            pa.array(image_ids[representative[first]], pa.string()),
            pa.array(image_ids[other[first]], pa.string()),
            pa.array(similarity[first], pa.float32()),
        ],
        schema=COMPONENTS.schema,
    )


def relative(
    image_ids: np.ndarray,
    edges: np.ndarray,
    similarities: np.ndarray,
    reference_ids: np.ndarray,
    reference_edges: np.ndarray,
    reference_similarities: np.ndarray,
    mode: Literal["component", "direct"],
) -> pa.Table:
    """Pool images that go because they resemble an evaluation image (paper, section 3: relative deduplication).

    ``component`` discards the whole component that holds a reference, as the paper does; ``direct`` only the images
    that have an edge to a reference themselves. Without a direct edge, an image is explained by its nearest image
    that has one: fewest edges away, then over the most similar last edge, then the lower id.

    Args:
        image_ids: [n] strings of the pool, ascending.
        edges: [m, 2] pairs of pool nodes.
        similarities: [m] float32.
        reference_ids: [r] strings.
        reference_edges: [p, 2] pairs (pool node, reference node).
        reference_similarities: [p] float32.
        mode: see above.

    Returns:
        Rows as in ``RELATIVE``, by image id.

    Raises:
        ValueError: the ids are not ascending, an edge names an unknown node, or the mode is unknown.
    """
    if mode not in ("component", "direct"):
        raise ValueError(f"relative deduplication mode {mode!r} is unknown; use 'component' or 'direct'")
    image_ids, reference_ids = _ascending(image_ids), np.asarray(reference_ids, str)
    reference_edges = np.asarray(reference_edges, np.int64).reshape(-1, 2)
    direct, first = _first_of_each(
        reference_edges[:, 0], (reference_ids[reference_edges[:, 1]], -np.asarray(reference_similarities))
    )
    source = np.full(len(image_ids), -1, np.int64)  # the node whose direct edge explains a node
    source[direct] = direct
    if mode == "component":
        _spread(source, *_both_ways(np.asarray(edges, np.int64).reshape(-1, 2), similarities))

    evidence = np.zeros(len(image_ids), np.int64)
    evidence[direct] = first
    gone = np.flatnonzero(source >= 0)
    why = evidence[source[gone]]
    via = pa.array(image_ids[source[gone]], pa.string(), mask=source[gone] == gone)
    return pa.Table.from_arrays(
        [
            pa.array(image_ids[gone], pa.string()),
            pa.array(reference_ids[reference_edges[why, 1]], pa.string()),
            pa.array(np.asarray(reference_similarities, np.float32)[why], pa.float32()),
            via,
        ],
        schema=RELATIVE,
    )


def _spread(source: np.ndarray, node: np.ndarray, other: np.ndarray, similarity: np.ndarray) -> None:
    """Give every node that is connected to an explained one its source, one ring of neighbours at a time."""
    while True:
        open_ = source[node] < 0
        node, other, similarity = node[open_], other[open_], similarity[open_]
        reached = np.flatnonzero(source[other] >= 0)
        if not len(reached):
            return
        ring, first = _first_of_each(node[reached], (other[reached], -similarity[reached]))
        source[ring] = source[other[reached[first]]]


def _both_ways(edges: np.ndarray, similarities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    similarities = np.asarray(similarities, np.float32)
    return (
        np.concatenate([edges[:, 0], edges[:, 1]]),
        np.concatenate([edges[:, 1], edges[:, 0]]),
        np.concatenate([similarities, similarities]),
    )


def _first_of_each(group: np.ndarray, keys: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Distinct groups, ascending, and the position of each one's first row by ``keys`` (the last key weighs most)."""
    order = np.lexsort((*keys, group))
    groups, first = np.unique(group[order], return_index=True)
    return groups, order[first]


def _ascending(image_ids: np.ndarray) -> np.ndarray:
    image_ids = np.asarray(image_ids, str)
    if len(image_ids) and not (image_ids[1:] > image_ids[:-1]).all():
        raise ValueError("image ids must be ascending and distinct; sort them and drop exact duplicates first")
    return image_ids
