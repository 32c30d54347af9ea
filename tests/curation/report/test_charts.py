import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.report import charts


def widths(svg: str) -> list[float]:
    return [float(r.get("width")) for r in ElementTree.fromstring(svg).iter("rect")]


def test_bar_parts_are_in_proportion_and_empty_ones_are_not_drawn():
    svg = charts.bar([("kept", 30, "#000"), ("none", 0, "#111"), ("lost", 10, "#222")], 80, "words")
    assert widths(svg) == pytest.approx([375, 125])


def test_labels_are_escaped():
    svg = charts.bar([("<b>", 1, "#000")], 1, '"><script>')
    assert "<script" not in svg
    assert ElementTree.fromstring(svg).get("aria-label") == '"><script>'


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_round_and_span_the_range(low, width):
    found = charts.ticks(low, low + width)
    assert found[0] <= low + 1e-9 * abs(low) + 1e-9
    assert found[-1] >= low + width - 1e-9 * (abs(low) + width)
    assert 2 <= len(found) <= 8


def test_lines_leave_out_what_is_not_finite():
    svg = charts.lines({"loss": [(0, 3.0), (1, float("nan")), (2, 1.0)]}, "step", "words")
    path = re.search(r'd="M([^"H]+)" fill="none"', svg).group(1)
    assert len(path.split("L")) == 2
    assert "nan" not in svg


def test_nothing_to_draw_is_nothing():
    assert charts.lines({"loss": []}, "step", "words") == ""
    ElementTree.fromstring(charts.lines({"loss": [(5, 1.0)]}, "step", "one point"))
