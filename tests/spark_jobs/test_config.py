"""Recipes that contradict themselves are refused before anything runs."""

import pytest

from conf import load
from spark_jobs.config import CurationConfig


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ("[32]", "fewer clusters than num_clusters, 32"),
        ("[8,8]", "each level has fewer clusters than the one below"),
        ("[4,8]", "each level has fewer clusters than the one below"),
        ("[8,0]", "each level has fewer"),
    ],
)
def test_levels_fall(levels, message):
    with pytest.raises(ValueError, match=message):
        load(CurationConfig, "conf/curation/demo.yaml", [f"recipe.cluster.levels={levels}"])


def test_levels_of_a_tree_and_a_balanced_sample():
    own = ["recipe.cluster.levels=[8,2]", "recipe.retrieve.balance.target=100"]
    recipe = load(CurationConfig, "conf/curation/demo.yaml", own).recipe
    assert recipe.cluster.levels == [8, 2]
    assert recipe.retrieve.balance is not None
    assert recipe.retrieve.balance.target == 100
