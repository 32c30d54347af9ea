"""Decisions on components do not depend on how these are dealt out to tasks."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.neighbours.components import connected_components
from curation.neighbours.decide import COMPONENT, COPY, COUNT, EDGE, FACTS, IMAGE, TREE, decide

QUALITY = {"eligible": True, "width": 100, "height": 100, "crawled_at": None}
REFERENCES = {"exam": (0.4, "component"), "quiz": (0.5, "direct")}


def facts(seed, n=40, m=30):
    """Rows of FACTS with the component of each, in a column of its own."""
    rng = np.random.default_rng(seed)
    ids = [f"{i:032x}" for i in range(n)]
    pairs = sorted({tuple(sorted(map(int, rng.choice(n, 2, replace=False)))) for _ in range(m)})
    labels = connected_components(n, np.array(pairs))
    rows = [
        {"kind": EDGE, "lower_id": ids[a], "higher_id": ids[b], "similarity": s, "label": labels[a]}
        for (a, b), s in zip(pairs, rng.uniform(0.6, 1, len(pairs)), strict=True)
    ]
    in_pairs = {node for pair in pairs for node in pair}
    rows += [
        {"kind": IMAGE, "image_id": ids[i], "size_bytes": int(rng.integers(9)), "label": labels[i]} | QUALITY
        for i in in_pairs
    ]
    for name in REFERENCES:
        rows += [
            {"kind": f"set:{name}", "lower_id": ids[i], "higher_id": f"{name}{k}", "similarity": s, "label": labels[i]}
            for k, (i, s) in enumerate(zip(rng.choice(n, 5).tolist(), rng.uniform(0.5, 1, 5), strict=True))
        ]
    order = rng.permutation(len(rows))
    return [rows[i] for i in order]


def table(rows):
    return pa.Table.from_pylist([{k: v for k, v in row.items() if k != "label"} for row in rows], FACTS)


def decided(rows, mode="witness"):
    """Everything but the counts, and the counts."""
    found = decide(table(rows), mode, REFERENCES).to_pylist()
    counts = {row["image_id"]: row["number"] for row in found if row["kind"] == COUNT}
    return sorted(str(row) for row in found if row["kind"] != COUNT), counts


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 7), st.sampled_from(["witness", "paper"]))
def test_buckets_do_not_show(seed, buckets, mode):
    rows = facts(seed)
    whole, counts = decided(rows, mode)
    parts = [decided([r for r in rows if r["label"] % buckets == b], mode) for b in range(buckets)]
    assert sorted(row for part, _ in parts for row in part) == whole
    assert {name: sum(count[name] for _, count in parts) for name in counts} == counts


@pytest.mark.parametrize("mode", ["witness", "paper"])
def test_nobody_goes_for_an_image_that_is_a_copy_of_an_evaluation_image(mode):
    rows = [{"kind": EDGE, "lower_id": "a", "higher_id": other, "similarity": 0.7} for other in "bc"]
    rows += [
        {"kind": IMAGE, "image_id": i, "size_bytes": size} | QUALITY for i, size in zip("abc", (9, 5, 4), strict=True)
    ]
    rows.append({"kind": "set:quiz", "lower_id": "a", "higher_id": "x", "similarity": 0.9})
    found = decide(table(rows), mode, REFERENCES).to_pylist()
    assert [row["image_id"] for row in found if row["kind"] == COPY] == ["a"]
    assert not [row for row in found if row["kind"] == COMPONENT], "nothing links the other two"
    counts = {row["image_id"]: row["number"] for row in found if row["kind"] == COUNT}
    assert counts["near_duplicates_witness"] == 2, "counted before copies go"


@pytest.mark.parametrize("mode", ["witness", "paper"])
def test_counts_are_of_what_is_decided(mode):
    found = decide(table(facts(3)), mode, REFERENCES).to_pylist()
    counts = {row["image_id"]: row["number"] for row in found if row["kind"] == COUNT}
    of = {kind: [row for row in found if row["kind"] == kind] for kind in (COMPONENT, COPY, TREE)}
    copies = {row["image_id"] for row in of[COPY]}
    assert copies
    assert not copies & {row[end] for row in of[COMPONENT] for end in ("image_id", "representative")}
    assert counts["near_duplicates_witness"] < counts["near_duplicates_paper"] == len(of[TREE])
    assert counts["copies_exam_direct"] <= counts["copies_exam_component"]
    assert len({row["image_id"] for row in of[COPY]}) == len(of[COPY])
    for row in of[COPY]:
        own = REFERENCES[row["other_id"][:4]][0]
        assert (row["similarity"], row["threshold"]) == (None, None) or row["similarity"] > row["threshold"] == own
