from curation.pocket_web.truth import Case
from curation.report.collect import Drop
from curation.report.planted import AS_EXPECTED, MISSED, NOT_JUDGED, OTHERWISE, compare


def drop(stage: str, reason: str, url: str | None = None, image_id: str | None = None) -> Drop:
    return Drop(stage, reason, image_id, url, None, None, None, None)


def outcome(case: Case, *drops: Drop) -> str:
    return compare([case], drops).findings[0].outcome


COPY = Case("edit", "dedup", "near_duplicate", "u1", image_id="i1", of="u2", of_image_id="i2")


def test_found_by_url_before_there_is_an_image_and_by_image_after():
    refused = Case("noai", "extract_links", "page_opted_out", "u")
    assert outcome(refused, drop("extract_links", "page_opted_out", url="u")) == AS_EXPECTED
    assert outcome(COPY, drop("dedup", "near_duplicate", image_id="i1")) == AS_EXPECTED


def test_missed_and_caught_otherwise_are_told_apart():
    assert outcome(COPY) == MISSED
    assert outcome(COPY, drop("screen", "pca_hash_duplicate", image_id="i1")) == OTHERWISE
    also = Case("edit", "dedup", "near_duplicate", "u1", image_id="i1", also=("pca_hash_duplicate",))
    assert outcome(also, drop("screen", "pca_hash_duplicate", image_id="i1")) == AS_EXPECTED


def test_the_other_copy_counts_only_where_the_stage_may_choose():
    other = drop("dedup", "near_duplicate", image_id="i2")
    assert outcome(COPY, other) == MISSED
    either = Case("edit", "dedup", "near_duplicate", "u1", image_id="i1", of="u2", of_image_id="i2", either=True)
    assert outcome(either, other) == AS_EXPECTED
    assert compare([either], [other]).unexpected == []


def test_an_exact_copy_does_not_explain_the_fate_of_its_original():
    """Both have one image_id: what the index does to one file says nothing of the other."""
    case = Case("copy", "index", "exact_duplicate", "u1", image_id="same", of="u2", of_image_id="same")
    assert outcome(case, drop("index", "exact_duplicate", url="u2", image_id="same")) == MISSED


def test_kept_means_until_its_stage():
    case = Case("control", "screen", "keep", "u", image_id="i")
    late = drop("retrieve", "not_retrieved", image_id="i")
    assert outcome(case, late) == AS_EXPECTED
    assert outcome(case, drop("screen", "too_small", image_id="i")) == OTHERWISE


def test_drops_of_the_selection_are_not_false_positives():
    drops = [drop("retrieve", "not_retrieved", image_id="a"), drop("dedup", "near_duplicate", image_id="b")]
    assert compare([], drops).unexpected == [drops[1]]


def test_rates_count_cases_and_drops():
    drops = [drop("dedup", "near_duplicate", image_id=i) for i in ("i1", "x", "y")]
    missed = Case("edit", "dedup", "near_duplicate", "u9", image_id="i9")
    (rate,) = compare([COPY, missed], drops).rates
    assert (rate.found, rate.planted, rate.right, rate.dropped) == (1, 2, 1, 3)


def test_a_stage_that_has_not_run_is_neither_right_nor_wrong():
    kept = Case("face", "publish", "keep", "u", image_id="i")
    comparison = compare([COPY, kept], [], finished=["extract_links", "download"])
    assert [finding.outcome for finding in comparison.findings] == [NOT_JUDGED, NOT_JUDGED]
    assert comparison.rates == []
