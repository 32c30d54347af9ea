"""Deduplication on made-up vectors: its edges and decisions, and what a snapshot, a removal or a threshold changes."""

import hashlib
import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from curation import schema, thresholds
from curation.neighbours.components import connected_components
from curation.neighbours.quantiser import Quantiser
from curation.neighbours.similarity import pair_similarities
from curation.schema import DROP
from spark_jobs import dedup
from spark_jobs.stage import Context
from spark_jobs.tables import RunKey
from tests.spark_jobs.equality import rows
from tests.spark_jobs.pool import Pool, against, planted

pytestmark = pytest.mark.spark


def similar(vectors, threshold, others=None):
    """(lower, higher) -> similarity of every pair above a threshold, by brute force."""
    left, right = list(vectors), list(vectors if others is None else others)
    others = vectors if others is None else others
    pairs = [(a, b) for a in left for b in right if others is not vectors or a < b]
    scores = pair_similarities(np.stack([vectors[a] for a, _ in pairs]), np.stack([others[b] for _, b in pairs]))
    return {pair: score for pair, score in zip(pairs, scores, strict=True) if score > np.float32(threshold)}


def edges(store, collection="pool"):
    of_store = pc.starts_with(pc.field("collection"), f"{collection}@")
    found = store.table("edges", filter=(pc.field("collection") == collection) | of_store).to_pylist()
    pairs = {(row["lower_id"], row["higher_id"]): np.float32(row["similarity"]) for row in found}
    assert len(pairs) == len(found), "a pair comes twice"
    return pairs


def decided(store):
    return {row["image_id"]: row for row in store.decisions("dedup").to_pylist()}


def test_edges_are_those_of_brute_force_and_witnesses_are_similar(spark, tmp_path):
    vectors, leaks = planted(0, 30, 60), planted(0, 8, 10)  # the same seed: the first centres are the same
    pool = Pool(spark, tmp_path, against("exam"))
    pool.embed(vectors, {"exam": leaks})
    report = pool.dedup()
    assert edges(pool.store) == similar(vectors, 0.6)
    assert edges(pool.store, "exam") == similar(vectors, 0.5, leaks)
    everyone = vectors | leaks
    ledger = decided(pool.store)
    assert set(ledger) == set(vectors)
    for row in ledger.values():
        if row["decision"] == DROP and row["score"] is not None:
            pair = (everyone[row["image_id"]][None], everyone[row["evidence"]][None])
            assert pair_similarities(*pair)[0] == np.float32(row["score"]) > row["threshold"]
    assert report.dropped.keys() == {"near_duplicate", "evaluation_copy"}
    certificate = pool.store.runs()["dedup"].metrics["certificate"]
    assert certificate["recall"] == 1
    assert f"{certificate['found']:,} of {certificate['edges']:,} ends of edges" in report.notes[0]


def present(vectors, keep):
    return {image_id: vector for image_id, vector in vectors.items() if keep(image_id)}


def halves(vectors, digit):
    return present(vectors, lambda i: i[digit] < "8")


@pytest.mark.parametrize("join", ["exact", "spill"])
def test_two_snapshots_are_one_run(spark, tmp_path, join):
    everything, leaks = planted(1, 60, 100), planted(1, 10, 10)
    overrides = [*against("exam"), *(quantiser(tmp_path, everything) if join == "spill" else [])]
    at_once = Pool(spark, tmp_path / "at_once", overrides)
    at_once.embed(everything, {"exam": leaks})
    at_once.dedup()
    if join == "spill":
        assert edges(at_once.store) == meeting(similar(everything, 0.6), everything)
        assert 0.8 < at_once.store.runs()["dedup"].metrics["certificate"]["recall"] < 1
    # half of the images and of the set, at a higher threshold; then the rest, which joins the first half once more
    bit_by_bit = Pool(spark, tmp_path / "bit_by_bit", overrides)
    bit_by_bit.embed(halves(everything, 0), {"exam": halves(leaks, 1)})
    bit_by_bit.dedup("recipe.dedup.threshold=0.7")
    bit_by_bit.embed(everything, {"exam": leaks})
    bit_by_bit.dedup()
    for name in ("edges", "components", "forest"):
        assert rows(bit_by_bit.store, name) == rows(at_once.store, name), name
    first, second = decided(bit_by_bit.store), decided(at_once.store)
    assert {i: row | {"run_id": None} for i, row in first.items()} == {
        i: row | {"run_id": None} for i, row in second.items()
    }


def test_lists_that_a_small_pool_cannot_train_are_fewer(spark, tmp_path):
    vectors = planted(3, 30, 60)
    pool = Pool(spark, tmp_path, ["recipe.dedup.join={method: spill}"])
    pool.embed({})
    pool.dedup()
    pool.embed(vectors)
    pool.dedup()
    assert len(vectors) // 39 > 1
    assert edges(pool.store).items() <= similar(vectors, 0.6).items()
    assert pool.store.runs()["dedup"].metrics["certificate"]["recall"] > 0.95


@pytest.mark.slow
def test_a_removed_representative_makes_room_and_nothing_is_joined_again(spark, tmp_path):
    everything = planted(2, 60, 40)
    pool, fresh = Pool(spark, tmp_path / "pool"), Pool(spark, tmp_path / "fresh")
    pool.embed(everything)
    pool.dedup()
    best = {row["representative"] for row in pool.store.table("components").to_pylist()}
    left = present(everything, lambda i: i not in best)
    found = rows(pool.store, "edges")
    pool.embed(left)
    pool.dedup("runtime.components=spark")
    fresh.embed(left)
    fresh.dedup()
    assert rows(pool.store, "edges") == found
    for name in ("components", "forest"):
        assert rows(pool.store, name) == rows(fresh.store, name), name
    assert len(rows(fresh.store, "components")) > 20


def test_another_store_as_reference_the_guard_and_every_threshold(spark, tmp_path, monkeypatch):
    vectors, others = planted(0, 30, 60), planted(0, 8, 10)
    other = Pool(spark, tmp_path / "other")
    other.embed(others)
    other.dedup()
    named = [f"sources.stores.other={other.store.uri}", "recipe.dedup.against=[other]"]
    own = ["recipe.dedup.references.other={threshold: 0.7, scope: component}", "recipe.dedup.certificate_sample=0"]
    pool = Pool(spark, tmp_path / "pool", [*named, *own])
    pool.embed(vectors)
    monkeypatch.setattr(dedup, "_SMALL", 1)
    (tmp_path / "pool/store/scratch/of-a-killed-run").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"one component holds 5 of \d+ images.*Components by size: \d+ of 5, "):
        pool.dedup()
    assert not list((tmp_path / "pool/store/scratch").glob("*"))
    found = rows(pool.store, "edges")
    assert edges(pool.store, "other") == similar(vectors, 0.7, others)
    report = pool.dedup("recipe.dedup.max_component_share=1.0", "recipe.dedup.k=1")
    assert rows(pool.store, "edges") == found, "the edges of the run that stopped are those"
    assert report.dropped["evaluation_copy"] >= len({a for a, _ in similar(vectors, 0.7, others)})

    best = {}  # the most similar neighbour of every image
    pairs = similar(vectors, 0.6)
    for (a, b), score in pairs.items():
        for one, two in ((a, b), (b, a)):
            best[one] = min(best.get(one, (np.inf, "")), (-score, two))
    kept = {tuple(sorted((one, two))) for one, (_, two) in best.items()}
    assert pool.store.runs()["dedup"].metrics["edges"] == len(kept) < len(pairs)

    ids = {image_id: node for node, image_id in enumerate(vectors)}
    levels = [0.6, 0.75, 0.9]
    for count in thresholds.counts(pool.store, levels):
        there = np.array([[ids[a], ids[b]] for a, b in kept if pairs[a, b] > np.float32(count.threshold)], int)
        sizes = np.unique(connected_components(len(ids), there.reshape(-1, 2)), return_counts=True)[1]
        assert (count.num_dropped, count.largest) == (len(ids) - len(sizes), sizes.max())
    with pytest.raises(ValueError, match=r"lies below 0.6"):
        thresholds.counts(pool.store, [0.5])


def test_another_store_is_known_by_its_index_wherever_it_lies(spark, tmp_path):
    vectors, leaks, noise = planted(0, 10, 10), planted(0, 4, 4), planted(7, 4, 4)
    other = Pool(spark, tmp_path / "other")
    other.embed(leaks | noise)
    other.dedup()
    own = ["recipe.dedup.against=[other]", "recipe.dedup.certificate_sample=0", "recipe.dedup.reference_scope=direct"]
    pool = Pool(spark, tmp_path / "pool", own)

    def copies(images, uri):
        pool.embed(images)
        pool.dedup(f"sources.stores.other={uri}")
        return {i for i, row in decided(pool.store).items() if row["reason"] == "evaluation_copy"}

    def tiles():
        return pool.store.table("tiles", filter=pc.field("collection") != "pool").num_rows

    def expected(images, others):
        return {a for a, _ in similar(images, 0.5, others)}

    assert copies(vectors, os.path.relpath(other.store.uri)) == expected(vectors, leaks | noise)
    first = tiles()
    other.folder = other.folder.rename(tmp_path / "moved")
    more = vectors | planted(9, 2, 2)
    assert copies(more, other.store.uri) == expected(more, leaks | noise)
    assert edges(pool.store, "other") == similar(more, 0.5, leaks | noise)
    assert tiles() == first, "the same store, once"
    other.embed(noise)  # the others leave its pool; its index keeps them
    assert copies(more, other.store.uri) == expected(more, noise) < expected(more, leaks | noise)
    assert set(pool.store.table("references")["image_id"].to_pylist()) < set(noise)
    shutil.rmtree(other.folder)
    other = Pool(spark, other.folder)
    other.embed(leaks)
    other.dedup()
    assert copies(more, other.store.uri) == expected(more, leaks)
    assert tiles() > first


def test_what_cannot_be_used_is_named_before_anything_is_joined(spark, tmp_path):
    vectors = planted(0, 3, 3)
    pool = Pool(spark, tmp_path, against("exam"))
    pool.embed(vectors, {"exam": planted(1, 1, 1)})
    few = quantiser(tmp_path, planted(0, 30, 60))[0].replace('"spill": 2', '"spill": 65').replace('s": 64', 's": 99')
    with pytest.raises(ValueError, match=r"recipe.dedup.join.spill=65: .*lists.bin has 64 lists; lower spill"):
        pool.dedup(few)
    other = quantiser(tmp_path, planted(0, 30, 60, dim=16))
    with pytest.raises(ValueError, match=r"lists.bin: its lists are of vectors of 16 values, but .*gives 32"):
        pool.dedup(*other)
    assert pool.store.table("tiles").num_rows == 0
    with pytest.raises(ValueError, match=r"sources.stores.other=/nowhere: no index is there; name a store in which"):
        pool.dedup("sources.stores.other=/nowhere")
    store = pool.store
    row = {"collection": "lost", "image_id": "0" * 32, "path": "a.jpg"}
    store.write(
        schema.COLLECTIONS, pa.Table.from_pylist([row], schema.COLLECTIONS.schema), RunKey("embed", "x", {}, {})
    )
    # what the stage does, without the check that its input is still there
    context = Context(spark, store, pool.config(*against("lost")), RunKey("dedup", "y", {}, {}))
    with pytest.raises(
        ValueError, match=r"'lost', of whose 1 pictures none could be embedded; mend sources.collections"
    ):
        dedup.run(context)


def meeting(pairs, vectors):
    """The pairs of which one's home is among the lists of the other."""
    ids = list(vectors)
    ranked = Quantiser.train(np.stack(list(vectors.values())), 64, seed=0).ranked(np.stack(list(vectors.values())), 2)
    lists = dict(zip(ids, ranked.tolist(), strict=True))
    return {(a, b): s for (a, b), s in pairs.items() if lists[a][0] in lists[b] or lists[b][0] in lists[a]}


def quantiser(folder, vectors):
    """Overrides that name lists trained on some vectors, too many for the data: a poor join."""
    data = Quantiser.train(np.stack(list(vectors.values())), 64, seed=0).to_bytes()
    (folder / "lists.bin").write_bytes(data)
    named = {"path": str(folder / "lists.bin"), "sha256": hashlib.sha256(data).hexdigest()}
    join = {"method": "spill", "num_lists": 64, "spill": 2, "quantiser": named}
    return [f"recipe.dedup.join={json.dumps(join)}"]
