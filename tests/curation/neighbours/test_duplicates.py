import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components

from curation.neighbours.duplicates import PAIRS, QUALITIES, after_removal, near_duplicates, preference, resolve
from curation.neighbours.similarity import pair_similarities
from curation.schema import COMPONENTS
from tests.curation.neighbours import graphs

MODES = pytest.mark.parametrize("mode", ["paper", "witness"])


def _tables(ids, edges, similarities, rng):
    """The same as tables, with qualities that often tie."""
    images = pa.table(
        {
            "image_id": ids,
            "eligible": rng.random(len(ids)) < 0.5,
            "width": rng.integers(1, 4, len(ids)) * 100,
            "height": rng.integers(1, 4, len(ids)) * 100,
            "size_bytes": rng.integers(1, 4, len(ids)) * 1000,
            "crawled_at": [
                [None, "2024-05-01T00:00:00Z", "2023-12-01T00:00:00Z"][i] for i in rng.integers(0, 3, len(ids))
            ],
        },
        schema=QUALITIES,
    )
    return images, pa.table([ids[edges[:, 0]], ids[edges[:, 1]], similarities], schema=PAIRS)


def test_preference():
    ids = np.array(["d", "c", "b", "a", "e"])
    width, height = [100, 100, 300, 100, 90], [200, 100, 100, 100, 900]
    size = [2000, 1500, 1000, 1500, 10**6]
    # "c" and "a" tie but for the id; both hold more bytes a pixel than "d" and "b"; "e" has the shortest short side
    assert ids[np.argsort(preference(ids, width, height, size))].tolist() == ["a", "c", "d", "b", "e"]
    # "c" was seen before "a"; nothing helps what may not be released
    eligible, crawled_at = [True, True, False, True, True], ["2024", "2023", "2022", "2024", "2024"]
    ranks = preference(ids, width, height, size, eligible, crawled_at)
    assert ids[np.argsort(ranks)].tolist() == ["c", "a", "d", "e", "b"]


@pytest.mark.parametrize("seed", range(10))
def test_one_image_of_each_component_stays_in_the_papers_mode(seed):
    ids, edges, similarities, rng = graphs.by_chance(seed)
    ranks = rng.permutation(len(ids))
    table = resolve(ids, edges, similarities, ranks, "paper")
    assert table.schema == COMPONENTS.schema
    rows = table.to_pylist()
    labels = connected_components(graphs.matrix(len(ids), edges), directed=False)[1]
    assert [r["image_id"] for r in rows] == ids[np.unique(edges)].tolist()
    pairs = {frozenset(e): s for e, s in zip(map(tuple, ids[edges]), similarities, strict=True)}
    for row in rows:
        mates = ids[labels == labels[np.searchsorted(ids, row["image_id"])]]
        assert row["component"] == min(mates)
        assert row["representative"] == min(mates, key=lambda i: ranks[np.searchsorted(ids, i)])
        assert row["similarity"] == pairs[frozenset((row["image_id"], row["witness"]))]
        near = {i: pairs[frozenset((i, row["image_id"]))] for i in mates if frozenset((i, row["image_id"])) in pairs}
        assert row["witness"] == (
            row["representative"] if row["representative"] in near else max(near, key=lambda i: near[i])
        )


@pytest.mark.parametrize("seed", range(10))
def test_only_copies_of_a_kept_image_go_in_witness_mode(seed):
    ids, edges, similarities, rng = graphs.by_chance(seed, num_edges=80)
    ranks = rng.permutation(len(ids))
    rows = {row["image_id"]: row for row in resolve(ids, edges, similarities, ranks, "witness").to_pylist()}
    assert sorted(rows) == ids[np.unique(edges)].tolist()
    rank = dict(zip(ids.tolist(), ranks.tolist(), strict=True))
    near = {i: {} for i in rows}
    for (a, b), s in zip(ids[edges].tolist(), similarities, strict=True):
        near[a][b] = near[b][a] = s
    kept = {i for i, row in rows.items() if row["representative"] == i}
    for image_id, row in rows.items():
        assert row["similarity"] == near[image_id][row["witness"]]
        better = {i: s for i, s in near[image_id].items() if i in kept and rank[i] < rank[image_id]}
        if image_id in kept:
            assert not better
            assert row["similarity"] == max(near[image_id].values())
        else:
            assert row["representative"] == row["witness"] == max(sorted(better), key=lambda i: better[i])
    for row in resolve(ids, edges, similarities, ranks, "paper").to_pylist():
        assert row["component"] == rows[row["image_id"]]["component"]
        assert row["representative"] in kept  # the best of a component stays in both modes


def test_a_chain_keeps_its_ends_in_witness_mode():
    ids, edges, similarities = np.array(list("abc")), np.array([[0, 1], [1, 2]]), np.array([0.7, 0.8], np.float32)
    by_image = {
        mode: {
            row["image_id"]: row["representative"]
            for row in resolve(ids, edges, similarities, [0, 1, 2], mode).to_pylist()
        }
        for mode in ("paper", "witness")
    }
    assert by_image == {"paper": {"a": "a", "b": "a", "c": "a"}, "witness": {"a": "a", "b": "a", "c": "c"}}


@MODES
@pytest.mark.parametrize("seed", range(5))
def test_witnesses_are_above_the_threshold_computed_from_their_vectors(seed, mode):
    threshold = 0.8
    vectors, edges, similarities, rng = graphs.of_vectors(seed, threshold)
    ids = np.array([f"{i:04x}" for i in range(len(vectors))])
    table = resolve(ids, edges, similarities, rng.permutation(len(ids)), mode)
    node = {image_id: i for i, image_id in enumerate(ids)}
    of = {end: vectors[[node[i] for i in table[end].to_pylist()]] for end in ("image_id", "witness", "representative")}
    again = pair_similarities(of["image_id"], of["witness"])
    assert len(table) > 10
    assert (again > np.float32(threshold)).all()
    assert np.array_equal(again, table["similarity"].to_numpy())
    dropped = table["image_id"].to_numpy() != table["representative"].to_numpy()
    to_representative = pair_similarities(of["image_id"], of["representative"])[dropped]
    if mode == "witness":
        assert (to_representative > np.float32(threshold)).all()
    else:
        assert to_representative.min() < threshold  # the chains of this data, which the other mode is for


@MODES
def test_what_may_be_released_never_goes_for_what_may_not(mode):
    ids, edges, similarities, rng = graphs.by_chance(3)
    images, pairs = _tables(ids, edges, similarities, rng)
    eligible = dict(zip(images["image_id"].to_pylist(), images["eligible"].to_pylist(), strict=True))
    rows = near_duplicates(images, pairs, mode).to_pylist()
    assert any(not eligible[row["representative"]] for row in rows)
    assert all(eligible[row["representative"]] for row in rows if eligible[row["image_id"]])


@MODES
@pytest.mark.parametrize("seed", range(5))
def test_order_direction_and_repetition_of_edges_do_not_matter(seed, mode):
    ids, edges, similarities, rng = graphs.by_chance(seed)
    ranks, order = rng.permutation(len(ids)), rng.permutation(len(edges))
    again = resolve(
        ids,
        np.concatenate([edges[order][:, ::-1], edges]),
        np.concatenate([similarities[order], similarities]),
        ranks,
        mode,
    )
    assert again.equals(resolve(ids, edges, similarities, ranks, mode))


@MODES
@pytest.mark.parametrize("seed", range(5))
def test_components_decided_apart_give_the_same_rows(seed, mode):
    ids, edges, similarities, rng = graphs.by_chance(seed)
    images, pairs = _tables(ids, edges, similarities, rng)
    whole = near_duplicates(images, pairs, mode)
    bucket = connected_components(graphs.matrix(len(ids), edges), directed=False)[1] % 4
    parts = []
    for i in range(4):
        members, inside = images.filter(bucket == i), pairs.filter(bucket[edges[:, 0]] == i)
        shuffled = [table.take(rng.permutation(len(table))) for table in (members, inside)]
        parts.append(near_duplicates(*shuffled, mode))
    assert pa.concat_tables(parts).sort_by("image_id").equals(whole)


@MODES
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), num_removed=st.integers(0, 12), num_edges=st.integers(1, 120))
def test_removal_equals_recomputation_and_touches_only_its_components(mode, seed, num_removed, num_edges):
    ids, edges, similarities, rng = graphs.by_chance(seed, num_edges=num_edges)
    images, pairs = _tables(ids, edges, similarities, rng)
    before = near_duplicates(images, pairs, mode)
    removed = rng.choice(ids, num_removed, replace=False)
    left = ~np.isin(ids, removed)
    expected = near_duplicates(images.filter(left), pairs.filter(left[edges].all(axis=1)), mode)

    labels = connected_components(graphs.matrix(len(ids), edges), directed=False)[1]
    touched = np.isin(labels, labels[~left])  # all it is given, so all that it can look at
    given_images, given_pairs = images.filter(touched), pairs.filter(touched[edges[:, 0]])
    after = after_removal(before, pa.array(removed, pa.string()), given_images, given_pairs, mode)
    assert after.equals(expected)
    elsewhere = set(ids[~touched])
    rows = [[row for row in table.to_pylist() if row["image_id"] in elsewhere] for table in (before, after)]
    assert rows[0] == rows[1]


def test_a_removed_representative_makes_room_for_the_next_eligible_image():
    ids, edges = np.array(list("abcd")), np.array([[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]])
    images = pa.table(
        [ids, [True, False, True, True], [900, 800, 600, 700], [900] * 4, [5000] * 4, [None] * 4], schema=QUALITIES
    )
    pairs = pa.table([ids[edges[:, 0]], ids[edges[:, 1]], np.full(6, 0.9, np.float32)], schema=PAIRS)
    before = near_duplicates(images, pairs, "witness")
    assert set(before["representative"].to_pylist()) == {"a"}
    after = after_removal(before, pa.array(["a"]), images, pairs, "witness")
    assert after["image_id"].to_pylist() == ["b", "c", "d"]
    assert set(after["representative"].to_pylist()) == {"d"}


@MODES
def test_nothing_to_do(mode):
    ids, none, empty = np.array(["a", "b"]), np.empty((0, 2), int), np.empty(0, np.float32)
    assert len(resolve(ids, none, empty, np.arange(2), mode)) == 0
    assert len(near_duplicates(QUALITIES.empty_table(), PAIRS.empty_table(), mode)) == 0
    assert len(resolve(ids, np.array([[1, 1]]), np.ones(1), np.arange(2), mode)) == 0


def test_bad_input():
    none, empty = np.empty((0, 2), int), np.empty(0, np.float32)
    with pytest.raises(ValueError, match="ascending"):
        resolve(np.array(["b", "a"]), none, empty, np.arange(2))
    with pytest.raises(ValueError, match="'best'"):
        resolve(np.array(["a"]), none, empty, np.arange(1), "best")
    stranger = pa.table([["a"], ["z"], [0.9]], schema=PAIRS)
    image = pa.table([["a"], [True], [1], [1], [1], [None]], schema=QUALITIES)
    with pytest.raises(ValueError, match="names image z, which is not among the 1 images"):
        near_duplicates(image, stranger, "paper")
