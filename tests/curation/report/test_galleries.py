"""The galleries of what was dropped."""

from types import SimpleNamespace

from curation.report.collect import Drop
from curation.report.galleries import Thumbnails, dropped


def gallery(reason, *scored):
    drops = [Drop("dedup", reason, f"{i:032x}", None, *pair, None, None) for i, pair in enumerate(scored)]
    found = SimpleNamespace(
        dropped_by=lambda stage: {reason: drops} if stage == "dedup" else {}, origins={}, collections={}
    )
    [made] = dropped(found, Thumbnails(found, SimpleNamespace(read=lambda _: None)))
    return made


def test_what_is_nearest_to_its_threshold_comes_first():
    made = gallery("near_duplicate", (0.9, 0.6), (0.61, 0.6), (0.7, 0.6))
    assert [one.facts for one in made.exhibits] == [
        ("similarity 0.61, threshold 0.6",), ("similarity 0.7, threshold 0.6",), ("similarity 0.9, threshold 0.6",),
    ]  # fmt: skip
    assert made.by_doubt


def test_what_has_no_threshold_keeps_its_order():
    made = gallery("truncated", (None, None), (None, None))
    assert [one.dropped.image_id for one in made.exhibits] == [f"{i:032x}" for i in range(2)]
    assert not made.by_doubt
