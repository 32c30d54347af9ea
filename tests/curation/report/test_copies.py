"""What the report says of deduplication's own measurements."""

from types import SimpleNamespace

from curation.report.copies import SHOWN_SIZES, measured


def found(**changes):
    metrics = {
        "certificate": {"images": 100, "edges": 50, "found": 49, "recall": 0.98, "low": 0.9, "high": 0.996},
        "near_duplicates": {"witness": 7, "paper": 9},
        "evaluation_copies": {"exam": {"direct": 2, "component": 5}},
        "component_sizes": {"2": 5, "10": 1},
    }
    recipe = {"mode": "witness", "references": {"exam": {"scope": "component"}}, "reference_scope": "direct"}
    return SimpleNamespace(runs={"dedup": SimpleNamespace(metrics=metrics | changes, recipe=recipe)})


def test_rules_and_which_was_chosen():
    copies = measured(found())
    assert [(rule.about, rule.dropped) for rule in copies.rules if rule.chosen] == [
        ("near-duplicates", 7),
        ("copies of exam", 5),
    ]
    assert sorted(rule.dropped for rule in copies.rules if not rule.chosen) == [2, 9]
    assert "0.9800 (95 % interval 0.9000 to 0.9960)" in copies.certificate
    assert [(size, count) for size, count, _ in copies.sizes] == [(2, 5), (10, 1)]
    assert "5 components of 2 images: 10 images" in copies.sizes[0][2]


def test_of_many_sizes_both_ends_are_shown():
    copies = measured(found(component_sizes={str(size): 1 for size in range(2, 102)}))
    assert len(copies.sizes) == SHOWN_SIZES
    assert (copies.sizes[0][0], copies.sizes[-1][0], copies.more) == (2, 101, 80)


def test_a_store_without_the_stage():
    assert measured(SimpleNamespace(runs={})) is None
