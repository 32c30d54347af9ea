import numpy as np
import pyarrow as pa
import pytest

from curation.schema import RETRIEVALS, SELECTION
from curation.selection.hash_order import hash_order
from curation.selection.policy import Limits, Taken, select

SETS = ("bikes", "birds", "cars", "own", "pets")


def _log(*rows):
    names = RETRIEVALS.schema.names
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema=RETRIEVALS.schema)


def _pool(ids, num_clusters=1):
    clusters = [i % num_clusters for i in range(len(ids))]
    return pa.table({"image_id": pa.array(list(ids), pa.string()), "cluster": pa.array(clusters, pa.int32())})


LOG = _log(
    ("pets", "q0", "a", 2, 0.7, "sample"),
    ("pets", "q1", "a", 1, 0.6, "sample"),
    ("birds", "q9", "a", 1, 0.8, "sample"),
    ("cars", None, "a", 1, 0.9, "cluster"),
    ("cars", None, "b", 2, 0.9, "cluster"),
    ("cars", None, "c", 3, 0.9, "cluster"),
    ("own", None, "d", 1, None, "as_is"),
    ("pets", "q1", "d", 1, 0.9, "sample"),
)


def _ids(selected):
    return selected.selection["image_id"].to_pylist()


def test_each_image_once_by_its_first_way():
    selected = select(LOG, _pool("edcba", 5), {}, seed=0)
    assert selected.selection.schema == SELECTION.schema
    assert [tuple(r.values()) for r in selected.selection.to_pylist()] == [
        ("a", "birds", "sample", 1, 4),
        ("b", "cars", "cluster", 2, 3),
        ("c", "cars", "cluster", 3, 2),
        ("d", "own", "as_is", 1, 1),
    ]
    assert selected.dropped.to_pylist() == [{"image_id": "e", "reason": "not_retrieved"}]
    assert selected.sets == {
        "birds": Taken(1, 1, 1), "cars": Taken(3, 3, 2), "own": Taken(1, 1, 1), "pets": Taken(3, 2, 0),
    }  # fmt: skip


def test_an_image_over_one_cap_is_taken_by_another_set():
    first = min("abc", key=lambda i: hash_order([i], 0, "cars")[0])
    selected = select(LOG, _pool("abcde"), {"cars": Limits(total=1)}, seed=0)
    assert _ids(selected) == sorted({"a", "d", first})
    reasons = {row["image_id"]: row["reason"] for row in selected.dropped.to_pylist()}
    assert reasons == {"e": "not_retrieved"} | {i: "over_cap" for i in "bc" if i != first}
    assert select(LOG, _pool("abcde"), {"pets": Limits(each=1)}, seed=0).sets["pets"].rows == 2


def test_by_unique_a_query_goes_on_to_its_next_candidate():
    log = _log(
        *(("pets", "q0", i, r, s, "sample") for i, r, s in (("a", 1, 0.9), ("b", 2, 0.8), ("c", 3, 0.7))),
        *(("pets", "q1", i, r, s, "sample") for i, r, s in (("a", 1, 0.8), ("b", 2, 0.7), ("d", 3, 0.6))),
    )
    limits = {"pets": Limits(each=2)}
    assert _ids(select(log, _pool("abcd"), limits, 0, "paper")) == ["a", "b"]
    selected = select(log, _pool("abcd"), limits, 0, "unique")
    # q0 gets a for being nearer; of rank 2 both want b, which is nearer to q0; q1 has d left
    assert [(r["image_id"], r["rank"]) for r in selected.selection.to_pylist()] == [("a", 1), ("b", 2), ("d", 3)]
    assert selected.sets["pets"] == Taken(3, 3, 3)
    assert selected.dropped.to_pylist() == [{"image_id": "c", "reason": "over_cap"}]


def _random(seed, num_images=200, num_clusters=6):
    """A log of all kinds of sets over a pool of images in clusters, and limits that bind."""
    rng = np.random.default_rng(seed)
    ids = [f"{i:04x}" for i in range(num_images)]
    rows = [("own", None, str(i), 1, None, "as_is") for i in rng.choice(ids, 12, replace=False)]
    for name, drawn in (("cars", (0, 1, 2)), ("bikes", (1, 2, 5))):
        for cluster in drawn:
            members = [i for number, i in enumerate(ids) if number % num_clusters == cluster]
            order = np.argsort(hash_order(members, seed, name))
            rows += [(name, None, members[m], r + 1, 0.5, "cluster") for r, m in enumerate(order)]
    for name in ("pets", "birds"):
        for query in range(15):
            near = rng.choice(ids[:60], 9, replace=False)
            similarity = np.sort(rng.random(9).round(1))[::-1]  # with ties
            rows += [
                (name, f"q{query}", str(i), r + 1, float(s), "sample")
                for r, (i, s) in enumerate(zip(near, similarity, strict=True))
            ]
    limits = {"cars": Limits(14, 30), "bikes": Limits(14), "pets": Limits(4), "birds": Limits(3, 25)}
    return ids, rows, limits, rng


def _oracle(rows, ids, limits, seed, once):
    """The candidates one by one, in the order that the module states."""
    cluster = {i: number % 6 for number, i in enumerate(ids)}

    def place(row):
        collection, query, image, rank, similarity, source = row
        by_cluster = source == "cluster"
        first = int(hash_order([image], seed, collection)[0]) if by_cluster else rank
        phase = ("all", "as_is", "sample", "cluster").index(source)
        return phase, first, -np.float32(similarity or 0), collection, query or "", image

    of_owner, of_set, taken = {}, {}, []
    for row in sorted(rows, key=place):
        limit, owner = limits.get(row[0], Limits()), (row[0], row[1], None if row[1] else cluster[row[2]])
        room = of_owner.get(owner, 0) < (limit.each or 10**9) and of_set.get(row[0], 0) < (limit.total or 10**9)
        if room and not (once and any(row[2] == other[2] for other in taken)):
            of_owner[owner] = of_owner.get(owner, 0) + 1
            of_set[row[0]] = of_set.get(row[0], 0) + 1
            taken.append(row)
    best = {}
    for row in taken:
        best.setdefault(row[2], (row[0], row[5], row[3]))
    return best, {name: [r[2] for r in taken if r[0] == name] for name in SETS}


@pytest.mark.parametrize("policy", ["paper", "unique"])
@pytest.mark.parametrize("seed", range(5))
def test_as_one_candidate_after_another(seed, policy):
    ids, rows, limits, rng = _random(seed)
    best, taken = _oracle(rows, ids, limits, seed, policy == "unique")
    for _ in range(2):
        selected = select(_log(*rows), _pool(ids, 6), limits, seed, policy)
        found = {r["image_id"]: (r["collection"], r["source"], r["rank"]) for r in selected.selection.to_pylist()}
        assert found == best
        dropped = {r["image_id"]: r["reason"] for r in selected.dropped.to_pylist()}
        assert sorted([*found, *dropped]) == ids
        assert all((i in {r[2] for r in rows}) == (reason == "over_cap") for i, reason in dropped.items())
        for name, counts in selected.sets.items():
            credited = sum(where[0] == name for where in best.values())
            assert counts == Taken(len(taken[name]), len(set(taken[name])), credited)
        rows = [rows[i] for i in rng.permutation(len(rows))]


def test_policies_differ_as_they_say():
    ids, rows, limits, _ = _random(0)
    paper, unique = (select(_log(*rows), _pool(ids, 6), limits, 0, policy) for policy in ("paper", "unique"))
    assert paper.sets["pets"].rows == 15 * 4 > paper.sets["pets"].distinct, "k a query, collisions counted"
    assert sum(counts.rows for counts in unique.sets.values()) == len(unique.selection)
    assert all(counts.rows == counts.distinct == counts.credited for counts in unique.sets.values())
    assert len(unique.selection) > len(paper.selection)


@pytest.mark.parametrize("policy", ["paper", "unique"])
@pytest.mark.parametrize("num_added", [1, 5])
@pytest.mark.parametrize("seed", range(6))
def test_images_that_are_added_displace_no_more_than_they_are(seed, num_added, policy):
    """Of sets by cluster, each with a take from a cluster and a cap of its own."""
    rng = np.random.default_rng(seed)
    ids = [f"{i:04x}" for i in range(150)]
    cluster = rng.integers(0, 4, 150)
    drawn = {"cars": (0, 1, 2), "bikes": (1, 2, 3), "birds": (0, 2)}
    limits = {"cars": Limits(20, 45), "bikes": Limits(15, 40), "birds": Limits(25)}

    def chosen(keep):
        rows = [
            (name, None, ids[i], 1, 0.5, "cluster")
            for name, among in drawn.items()
            for i in keep
            if cluster[i] in among
        ]
        table = pa.table({"image_id": [ids[i] for i in keep], "cluster": pa.array(cluster[keep], pa.int32())})
        return select(_log(*rows), table, limits, seed, policy)

    late = rng.choice(150, num_added, replace=False)
    before, after = chosen(np.setdiff1d(np.arange(150), late)), chosen(np.arange(150))
    assert len(set(_ids(before)) - set(_ids(after))) <= num_added
    for name in drawn:
        mine = [
            {r["image_id"] for r in one.selection.to_pylist() if r["collection"] == name} for one in (before, after)
        ]
        assert after.sets[name].rows <= (limits[name].total or 10**9)
        if policy == "unique":
            assert len(mine[0] - mine[1]) <= num_added


def test_empty_log_and_empty_pool():
    assert select(_log(), _pool("ab"), {}, 0).dropped["reason"].to_pylist() == ["not_retrieved"] * 2
    assert len(select(_log(), _pool(""), {}, 0).selection) == 0
    assert select(_log(), _pool("ab"), {"cars": Limits(1, 1)}, 0, "unique").sets == {}


def test_bad_input():
    with pytest.raises(ValueError, match="candidate a is not in the pool"):
        select(LOG, _pool("bcd"), {}, 0)
    with pytest.raises(ValueError, match="listed twice"):
        select(LOG, _pool("aabcd"), {}, 0)
    with pytest.raises(ValueError, match="source"):
        select(_log(("x", None, "a", 1, 0.1, "luck")), _pool("a"), {}, 0)
