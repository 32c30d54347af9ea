"""Counts at other thresholds, and when there are none."""

import json

import pytest

from curation import thresholds
from curation.store import Store
from tests.curation.audit.stored import put, run_row


def store(folder, recipe):
    put(folder, "runs", [run_row(0, "dedup", 4, {}, None) | {"recipe": json.dumps(recipe)}])
    put(folder, "forest", [
        {"lower_id": "a", "higher_id": "b", "similarity": 0.9}, {"lower_id": "b", "higher_id": "c", "similarity": 0.7},
    ])  # fmt: skip
    return Store(str(folder))


def test_groups_fall_apart_as_the_threshold_rises(tmp_path):
    counts = thresholds.counts(store(tmp_path, {"threshold": 0.6, "normalise": None}), [0.6, 0.8])
    assert [(count.num_dropped, count.largest) for count in counts] == [(2, 3), (1, 2)]


def test_similarities_say_nothing_where_pairs_are_normalised(tmp_path):
    recipe = {"threshold": 0.6, "normalise": {"background": "others"}}
    with pytest.raises(ValueError, match=r"recipe.dedup.normalise .* run dedup with recipe.dedup.threshold at each"):
        thresholds.counts(store(tmp_path, recipe))
