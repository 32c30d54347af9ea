"""Which images go because they resemble an evaluation image (paper, section 3: relative deduplication)."""

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.neighbours.adjacency import adjacency
from curation.neighbours.compiled import compiled
from curation.neighbours.duplicates import ascending, positions

Scope = Literal["component", "direct"]

RELATIVE = pa.schema(
    [
        ("image_id", pa.string()),  # a pool image that goes
        ("reference", pa.string()),  # the evaluation image that is the reason
        ("similarity", pa.float32()),  # between the reference and `via`, or the image itself where `via` is null
        ("via", pa.string()),  # null for a direct edge; else the image of the same component that has one
    ]
)


def evaluation_copies(edges: pa.Table, reference_edges: pa.Table, scope: Scope) -> pa.Table:
    """:func:`relative` on tables.

    Args:
        edges: columns of ``duplicates.PAIRS`` within the pool; the components that hold an image of
            ``reference_edges`` suffice.
        reference_edges: the same columns; ``lower_id`` is a pool image, ``higher_id`` a reference image.
        scope: as in :func:`relative`.

    Returns:
        Rows as in ``RELATIVE``, by image id.
    """
    pool_columns = [edges["lower_id"], edges["higher_id"], reference_edges["lower_id"]]
    pool = _distinct(pool_columns)
    references = _distinct([reference_edges["higher_id"]])
    return relative(
        np.asarray(pool.to_pylist(), str),
        np.stack([positions(pool, column) for column in pool_columns[:2]], axis=1),
        edges["similarity"].to_numpy(),
        np.asarray(references.to_pylist(), str),
        np.stack(
            [positions(pool, reference_edges["lower_id"]), positions(references, reference_edges["higher_id"])], axis=1
        ),
        reference_edges["similarity"].to_numpy(),
        scope,
    )


def relative(
    image_ids: np.ndarray,
    edges: np.ndarray,
    similarities: np.ndarray,
    reference_ids: np.ndarray,
    reference_edges: np.ndarray,
    reference_similarities: np.ndarray,
    scope: Scope,
) -> pa.Table:
    """Pool images that go because they resemble an evaluation image.

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
        scope: see above.

    Returns:
        Rows as in ``RELATIVE``, by image id; of several references the most similar one (ties: the lower id).

    Raises:
        ValueError: the ids are not ascending, an edge names an unknown node, or the scope is unknown.
    """
    if scope not in ("component", "direct"):
        raise ValueError(f"relative deduplication scope {scope!r} is unknown; use 'component' or 'direct'")
    image_ids, reference_ids = ascending(image_ids), np.asarray(reference_ids, str)
    reference_edges = np.asarray(reference_edges, np.int64).reshape(-1, 2)
    reference_similarities = np.asarray(reference_similarities, np.float32)
    pool_node, reference_node = reference_edges.T
    order = np.lexsort((reference_ids[reference_node], -reference_similarities, pool_node))
    direct, first = np.unique(pool_node[order], return_index=True)
    evidence = np.zeros(len(image_ids), np.int64)  # of a node with a direct edge: which one
    evidence[direct] = order[first]

    source = np.full(len(image_ids), -1, np.int64)  # the node whose direct edge explains a node
    source[direct] = direct
    if scope == "component":
        graph = adjacency(len(image_ids), np.asarray(edges, np.int64).reshape(-1, 2), similarities)
        _spread(source, direct, graph.offsets, graph.neighbours, graph.similarities)
    gone = np.flatnonzero(source >= 0)
    why = evidence[source[gone]]
    return pa.Table.from_arrays(
        [
            pa.array(image_ids[gone], pa.string()),
            pa.array(reference_ids[reference_node[why]], pa.string()),
            pa.array(reference_similarities[why], pa.float32()),
            pa.array(image_ids[source[gone]], pa.string(), mask=source[gone] == gone),
        ],
        schema=RELATIVE,
    )


def _distinct(columns: list[pa.ChunkedArray]) -> pa.Array:
    chunks = [chunk for column in columns for chunk in column.chunks]
    return pc.unique(pa.chunked_array(chunks, pa.string())).sort()


@compiled
def _spread(
    source: np.ndarray, ring: np.ndarray, offsets: np.ndarray, neighbours: np.ndarray, similarities: np.ndarray
) -> None:
    """Give every node connected to an explained one its source, one ring of neighbours after the other.

    The next ring is decided as a whole: of each of its nodes the best edge into the present one is kept.
    """
    reached = np.empty(len(source), np.int64)  # the next ring
    best = np.full(len(source), -1, np.int64)  # of its nodes: the node of the present ring
    weight = np.empty(len(source), np.float32)
    while len(ring):
        size = 0
        for node in ring:
            for row in range(offsets[node], offsets[node + 1]):
                other, similarity = neighbours[row], similarities[row]
                if source[other] >= 0:
                    continue
                if best[other] < 0:
                    reached[size] = other
                    size += 1
                elif similarity < weight[other] or (similarity == weight[other] and node > best[other]):
                    continue
                best[other], weight[other] = node, similarity
        ring = reached[:size].copy()
        for node in ring:
            source[node] = source[best[node]]
