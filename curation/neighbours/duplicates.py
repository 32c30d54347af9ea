"""Which images of a group of near-duplicates stay (paper, section 3: self-deduplication).

Pure functions of the images, their edges and how good each image is: whatever cuts the data into whole components
(partitions, crawl snapshots, a removal) gets the same rows.
"""

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.neighbours.adjacency import adjacency
from curation.neighbours.compiled import compiled
from curation.neighbours.components import connected_components
from curation.schema import COMPONENTS

Mode = Literal["paper", "witness"]

QUALITIES = pa.schema(
    [
        ("image_id", pa.string()),
        ("eligible", pa.bool_()),  # may be released: not opted out, safe
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("size_bytes", pa.int64()),
        ("crawled_at", pa.string()),  # ISO 8601 in UTC, of the earliest sighting; null where unknown
    ]
)

PAIRS = pa.schema([("lower_id", pa.string()), ("higher_id", pa.string()), ("similarity", pa.float32())])


def near_duplicates(images: pa.Table, edges: pa.Table, mode: Mode) -> pa.Table:
    """:func:`preference` and :func:`resolve` on tables.

    Args:
        images: columns of ``QUALITIES``, at least the images of the edges, in any order.
        edges: columns of ``PAIRS``; whole components.
        mode: as in :func:`resolve`.

    Returns:
        Rows as in ``curation.schema.COMPONENTS`` for every image with an edge, by image id.

    Raises:
        ValueError: an image comes twice, or an edge names an image that is not there, or the mode is unknown.
    """
    images = images.sort_by("image_id")
    ids = np.asarray(images["image_id"].to_pylist(), str)
    ranks = preference(
        ids,
        images["width"].to_numpy(),
        images["height"].to_numpy(),
        images["size_bytes"].to_numpy(),
        images["eligible"].to_numpy(),
        np.asarray(images["crawled_at"].fill_null(_NEVER).to_pylist(), str),
    )
    known = images["image_id"].combine_chunks()
    nodes = np.stack([positions(known, edges[end]) for end in ("lower_id", "higher_id")], axis=1)
    return resolve(ids, nodes, edges["similarity"].to_numpy(), ranks, mode)


def after_removal(components: pa.Table, removed: pa.Array, images: pa.Table, edges: pa.Table, mode: Mode) -> pa.Table:
    """What :func:`near_duplicates` says once some images are gone; only their components are looked at.

    A kept image that is removed makes room for the next best of those it stood for; a component may fall apart.

    Args:
        components: what :func:`near_duplicates` gave with the images still there.
        removed: image ids, with or without a row in ``components``.
        images: as in :func:`near_duplicates`; the images of touched components suffice.
        edges: as in :func:`near_duplicates`; the edges of touched components suffice.
        mode: the same as of ``components``.

    Returns:
        Rows as in ``curation.schema.COMPONENTS`` for every remaining image that still has an edge, by image id.
    """
    gone = pc.is_in(components["image_id"], value_set=removed)
    touched = pc.is_in(components["component"], value_set=components.filter(gone)["component"].combine_chunks())
    remaining = components.filter(pc.and_not(touched, gone))["image_id"].combine_chunks()
    inside = [pc.is_in(edges[end], value_set=remaining) for end in ("lower_id", "higher_id")]
    again = near_duplicates(
        images.filter(pc.is_in(images["image_id"], value_set=remaining)), edges.filter(pc.and_(*inside)), mode
    )
    return pa.concat_tables([components.filter(pc.invert(touched)), again]).sort_by("image_id").combine_chunks()


def preference(
    image_ids: np.ndarray,
    width: np.ndarray,
    height: np.ndarray,
    size_bytes: np.ndarray,
    eligible: np.ndarray | None = None,
    crawled_at: np.ndarray | None = None,
) -> np.ndarray:
    """Order images by how much they deserve to stand for their duplicates.

    Eligible ones first, then the largest short side, the most bytes per pixel (the least compressed), the earliest
    crawl, the lowest content id.

    Args:
        image_ids: [n] distinct strings.
        width: [n] pixels.
        height: [n] pixels.
        size_bytes: [n] of the encoded image.
        eligible: [n] bool; None: all are.
        crawled_at: [n] strings that sort by time; None: unknown.

    Returns:
        [n] int64: 0 for the best image, n - 1 for the last.
    """
    width, height = np.asarray(width, np.int64), np.asarray(height, np.int64)
    bytes_per_pixel = np.asarray(size_bytes, np.float64) / np.maximum(width * height, 1)
    keys = [np.asarray(image_ids, str)]  # the last key weighs most
    if crawled_at is not None:
        keys.append(np.asarray(crawled_at, str))
    keys += [-bytes_per_pixel, -np.minimum(width, height)]
    if eligible is not None:
        keys.append(~np.asarray(eligible, bool))
    ranks = np.empty(len(width), np.int64)
    ranks[np.lexsort(keys)] = np.arange(len(width))
    return ranks


def resolve(
    image_ids: np.ndarray, edges: np.ndarray, similarities: np.ndarray, ranks: np.ndarray, mode: Mode = "paper"
) -> pa.Table:
    """Components of near-duplicates, and for each image the one that stays in its place.

    ``paper`` keeps one image a component, its best. ``witness`` goes through the images from the best to the last and
    drops one only where it has an edge to an image already kept: chained images (A-B and B-C, but not A-C) are not
    taken for copies of each other. Whoever is dropped there has its kept image as witness; the best of a component
    stays in both modes.

    Args:
        image_ids: [n] strings, ascending; a node is a position in it.
        edges: [m, 2] pairs of nodes; order, direction and repetition do not matter, loops are passed over.
        similarities: [m] float32.
        ranks: [n] as ``preference`` gives them.
        mode: see above.

    Returns:
        Rows as in ``curation.schema.COMPONENTS`` for every image with an edge, by image id. An image is kept if it is
        its own representative. Else the representative is the best of its component (``paper``) or, of the kept
        images that are better than it and have an edge to it, the most similar (``witness``). The witness is the
        representative where there is an edge to it, else the most similar neighbour. Ties go to the lower id.

    Raises:
        ValueError: the ids are not ascending, an edge names an unknown node, or the mode is unknown.
    """
    if mode not in ("paper", "witness"):
        raise ValueError(f"deduplication mode {mode!r} is unknown; use 'paper' or 'witness'")
    image_ids = ascending(image_ids)
    edges = np.asarray(edges).reshape(-1, 2)
    component = connected_components(len(image_ids), edges)
    graph = adjacency(len(image_ids), edges, similarities)
    order = np.empty(len(image_ids), np.int64)
    order[ranks] = np.arange(len(image_ids))
    if mode == "paper":
        representative = _best(component, ranks, order)
    else:
        representative = _keep_greedily(order, graph.offsets, graph.neighbours)

    node = np.flatnonzero(np.diff(graph.offsets))
    row = graph.offsets[node]  # the most similar neighbour
    to_representative = np.flatnonzero(graph.neighbours == representative[graph.nodes])
    direct, first = np.unique(graph.nodes[to_representative], return_index=True)
    row[np.searchsorted(node, direct)] = to_representative[first]
    return pa.Table.from_arrays(
        [
            pa.array(image_ids[node], pa.string()),
            pa.array(image_ids[component[node]], pa.string()),
            pa.array(image_ids[representative[node]], pa.string()),
            pa.array(image_ids[graph.neighbours[row]], pa.string()),
            pa.array(graph.similarities[row], pa.float32()),
        ],
        schema=COMPONENTS.schema,
    )


def ascending(image_ids: np.ndarray) -> np.ndarray:
    """The ids as an array of strings.

    Raises:
        ValueError: they are not ascending.
    """
    image_ids = np.asarray(image_ids, str)
    if len(image_ids) and not (image_ids[1:] > image_ids[:-1]).all():
        raise ValueError("image ids must be ascending and distinct; sort them and drop exact duplicates first")
    return image_ids


def positions(image_ids: pa.Array, wanted: pa.ChunkedArray) -> np.ndarray:
    """[m] int64: where each wanted id stands.

    Raises:
        ValueError: one is not there.
    """
    found = pc.index_in(wanted, value_set=image_ids)
    if found.null_count:
        unknown = wanted.filter(found.is_null())[0]
        raise ValueError(f"an edge names image {unknown}, which is not among the {len(image_ids)} images")
    return found.to_numpy().astype(np.int64)


_NEVER = "~"  # behind every time of ISO 8601


def _best(component: np.ndarray, ranks: np.ndarray, order: np.ndarray) -> np.ndarray:
    """[n]: the node of lowest rank in each node's component."""
    lowest = np.full(len(ranks), len(ranks), np.int64)
    np.minimum.at(lowest, component, ranks)
    return order[lowest[component]]


@compiled
def _keep_greedily(order: np.ndarray, offsets: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """[n] int64: who stays in a node's place. Neighbours come most similar first, so the first kept one is it."""
    kept = np.zeros(len(order), np.bool_)
    stays = np.empty(len(order), np.int64)
    for node in order:
        stays[node] = node
        for row in range(offsets[node], offsets[node + 1]):
            other = neighbours[row]
            if kept[other]:  # so far only better ones are
                stays[node] = other
                break
        kept[node] = stays[node] == node
    return stays
