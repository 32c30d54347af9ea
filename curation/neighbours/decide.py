"""What is decided on whole components of similar images, however many of them a task is given at once."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.neighbours.duplicates import PAIRS, QUALITIES, Mode, near_duplicates, positions
from curation.neighbours.forest import maximum_spanning_forest
from curation.neighbours.relative import Scope, evaluation_copies

EDGE, IMAGE = "edge", "image"  # kinds of facts; the edges of a reference set have kind "set:<its name>"
COMPONENT, TREE, COPY, COUNT = "component", "tree", "copy", "count"  # kinds of what is decided

FACTS = pa.schema(
    [
        ("kind", pa.string()),
        ("image_id", pa.string()),  # of an image
        *PAIRS,  # of an edge
        *(field for field in QUALITIES if field.name != "image_id"),  # of an image
    ]
)

DECIDED = pa.schema(
    [
        ("kind", pa.string()),
        ("image_id", pa.string()),  # of a count: what was counted
        ("other_id", pa.string()),  # a component's witness, a tree's other end, a copy's reference image
        ("similarity", pa.float32()),  # to it; null for a copy that has no edge of its own
        ("component", pa.string()),
        ("representative", pa.string()),
        ("threshold", pa.float64()),  # of the reference set that a copy is of
        ("number", pa.int64()),  # of a count
    ]
)


def decide(facts: pa.Table, mode: Mode, references: Mapping[str, tuple[float, Scope]]) -> pa.Table:
    """Who stays of every component, what goes because of a reference, and the maximum spanning forest.

    Args:
        facts: rows as in ``FACTS``: whole components with all their images, and the reference edges of their images.
        mode: as in ``duplicates.resolve``; the number of images that go is counted for both modes.
        references: reference set -> (threshold, scope); what goes is counted for both scopes.

    Returns:
        Rows as in ``DECIDED``. An image goes as a copy for one reference: one with an edge to it rather than to its
        component, then the most similar, then the set that is named first. Copies go first, and who stays is decided
        among the others: nothing is dropped for an image that goes itself. Trees and counts are of all images.
    """
    images = facts.filter(pc.equal(facts["kind"], IMAGE)).select(QUALITIES.names)
    assert not images["width"].null_count + images["size_bytes"].null_count, "an image was not screened or indexed"
    edges = facts.filter(pc.equal(facts["kind"], EDGE)).select(PAIRS.names)
    copies, counts = _copies(facts, edges, references)
    for each in ("paper", "witness"):
        found = near_duplicates(images, edges, each)
        dropped = pc.sum(pc.not_equal(found["image_id"], found["representative"]))
        counts[f"near_duplicates_{each}"] = dropped.as_py() or 0
    left = [pc.invert(pc.is_in(edges[end], copies["image_id"].combine_chunks())) for end in ("lower_id", "higher_id")]
    chosen = near_duplicates(images, edges.filter(pc.and_(*left)), mode)
    parts = [
        _rows(
            COMPONENT,
            image_id=chosen["image_id"],
            other_id=chosen["witness"],
            similarity=chosen["similarity"],
            component=chosen["component"],
            representative=chosen["representative"],
        ),
        _trees(images["image_id"].combine_chunks().sort(), edges),
        copies,
        _rows(COUNT, image_id=list(counts), number=list(counts.values())),
    ]
    return pa.concat_tables(parts).combine_chunks()


def _copies(
    facts: pa.Table, edges: pa.Table, references: Mapping[str, tuple[float, Scope]]
) -> tuple[pa.Table, dict[str, int]]:
    """One row for every image that goes as a copy, and how many would go in each scope."""
    copies: list[dict[str, Any]] = []
    counts: dict[str, int] = {}
    for order, (name, (threshold, scope)) in enumerate(references.items()):
        mine = facts.filter(pc.equal(facts["kind"], f"set:{name}")).select(PAIRS.names)
        found = {each: evaluation_copies(edges, mine, each) for each in ("component", "direct")}
        counts |= {f"copies_{name}_{each}": table.num_rows for each, table in found.items()}
        copies += [row | {"threshold": threshold, "order": order} for row in found[scope].to_pylist()]
    return _best(copies), counts


def _trees(ids: pa.Array, edges: pa.Table) -> pa.Table:
    nodes = np.stack([positions(ids, edges[end]) for end in ("lower_id", "higher_id")], axis=1)
    forest = maximum_spanning_forest(len(ids), [(nodes, edges["similarity"].to_numpy())])
    ends = [ids.take(pa.array(forest.edges[:, end])) for end in (0, 1)]
    return _rows(TREE, image_id=ends[0], other_id=ends[1], similarity=forest.similarities)


def _best(copies: list[dict[str, Any]]) -> pa.Table:
    """One row for every image that goes as a copy."""
    rows = sorted(
        copies,
        key=lambda row: (row["image_id"], row["via"] is not None, -row["similarity"], row["order"], row["reference"]),
    )
    first = {row["image_id"]: row for row in reversed(rows)}
    return _rows(
        COPY,
        image_id=list(first),
        other_id=[row["reference"] for row in first.values()],
        # without an edge of its own, the similarity is another image's, which the edges tell
        similarity=[row["similarity"] if row["via"] is None else None for row in first.values()],
        threshold=[row["threshold"] if row["via"] is None else None for row in first.values()],
    )


def _rows(kind: str, **columns: Any) -> pa.Table:
    length = len(columns["image_id"])
    full = {name: columns.get(name, [None] * length) for name in DECIDED.names} | {"kind": [kind] * length}

    def array(field: pa.Field) -> Any:
        values = full[field.name]
        return (
            values.cast(field.type) if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, field.type)
        )

    return pa.Table.from_arrays([array(field) for field in DECIDED], schema=DECIDED)
