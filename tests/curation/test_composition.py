import json

import pytest

from conf import load
from curation import composition
from curation.composition import nominal
from curation.store import Run, Store
from spark_jobs.config import CurationConfig

TAKE = 10_000


@pytest.fixture(scope="module")
def lvd():
    return load(CurationConfig, "conf/curation/lvd142m.yaml", ["store=/s", "sources.collections.dtd=s3://b/dtd"])


def _units(queries):
    """Queries, images or clusters: what the paper's table says of a set, in the recipe's terms."""
    by_cluster = queries.method == "cluster"
    return queries.published.retrieved // TAKE if by_cluster else queries.published.images


@pytest.fixture(scope="module")
def counts(lvd):
    retrieve, found = lvd.recipe.retrieve, {}
    for name, queries in retrieve.sets.items():
        retrieved, final = nominal(_units(queries), *retrieve.limits(name))
        found[name] = {"images": queries.published.images, "retrieved": retrieved, "nominal": final}
    return found


def test_the_recipe_states_the_papers_settings(lvd):
    recipe = lvd.recipe
    assert (recipe.dedup.threshold, recipe.dedup.k, recipe.dedup.mode) == (0.6, 64, "paper")
    assert (recipe.dedup.reference_threshold, recipe.dedup.reference_scope) == (0.45, "component")
    assert recipe.cluster.num_clusters == 100_000
    methods = [queries.method for queries in recipe.retrieve.sets.values()]
    assert (methods.count("as_is"), methods.count("sample"), methods.count("cluster")) == (3, 3, 21)
    assert {q.min_queries for q in recipe.retrieve.sets.values() if q.method == "cluster"} == {4}, "more than 3"
    assert set(recipe.dedup.against) < set(lvd.sources.collections)


def test_its_arithmetic_gives_the_published_counts_of_every_set(lvd, counts):
    for name, queries in lvd.recipe.retrieve.sets.items():
        assert counts[name]["retrieved"] == queries.published.retrieved, name
        assert counts[name]["nominal"] == queries.published.final, name


def test_the_totals_are_the_papers(lvd, counts):
    recipe = lvd.recipe.retrieve.model_dump(mode="json")
    rows = composition.composition(recipe, counts, {})
    by_method = {}
    for row in rows:
        by_method[row.retrieval] = by_method.get(row.retrieval, 0) + row.final
    assert by_method == {"as is": 17_211_818, "sample": 104_107_568, "cluster": 20_790_000}
    totals = composition.totals(rows)
    assert (totals["final"], totals["published"], totals["difference"]) == (142_109_386, 142_109_386, 0)
    amstertime = {row.dataset: row.final for row in rows if row.dataset.startswith("AmsterTime")}
    assert amstertime == {"AmsterTime / new": 960_000, "AmsterTime / old": 830_000}
    assert composition.cells(rows)[-1][1:] == ["in all", "", "", "", "142,109,386", "0", "142,109,386", "0"]


RECIPE = {
    "sets": {
        "pets": {"method": "sample", "published": None},
        "a|b": {"method": "as_is", "published": {"task": "x", "dataset": "A|B", "final": 7}},
    }
}
COUNTS = {
    "pets": {"images": 10, "retrieved": 40, "nominal": 40},
    "a|b": {"images": 9, "retrieved": None, "nominal": 9},
}


def test_text_markdown_and_json():
    rows = composition.composition(RECIPE, COUNTS, {"pets": 31, "a|b": 8})
    assert [line.split() for line in composition.text(rows).splitlines()[1:]] == [
        ["pets", "10", "sample", "40", "40", "31"],
        ["x", "A|B", "9", "as", "is", "9", "8", "7", "2"],
        ["in", "all", "49", "39", "7", "2"],
    ]
    assert "| x | A\\|B | 9 | as is |  | 9 | 8 | 7 | 2 |" in composition.markdown(rows)
    document = json.loads(composition.as_json(rows))
    assert document["totals"] == {"final": 49, "unique": 39, "published": 7, "difference": 2}
    assert document["sets"][1]["difference"] == 2


def test_a_pool_that_is_taken_whole_is_one_row():
    rows = composition.composition({"sets": {}}, {}, {"pool": 5})
    assert [(row.name, row.retrieval, row.final, row.unique) for row in rows] == [("pool", "whole pool", 5, 5)]
    assert composition.cells(rows)[0] == ["dataset / split", "images", "retrieval", "final", "unique"]


def test_what_is_not_on_record(tmp_path):
    run = Run("retrieve", "r", {}, {}, {}, 0, 0, {}, {})
    assert composition.of_run(run, {}) == []
    with pytest.raises(ValueError, match="retrieve has not run there"):
        composition.of_store(Store(str(tmp_path)))
