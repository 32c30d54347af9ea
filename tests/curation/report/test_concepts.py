from xml.etree import ElementTree

import numpy as np
import pytest

from curation.report import charts, concepts, galleries
from curation.report.collect import Pictures, collect
from curation.store import Store


@pytest.fixture(scope="module")
def found(world):
    return collect(Store(str(world.store)), str(world.root / "release"))


def _measured(world, found):
    store = Store(str(world.store))
    return concepts.measured(store, found, galleries.Thumbnails(found, Pictures(store, None)))


def test_measures_picture_and_examples(world, found):
    shown = _measured(world, found)
    pool = [i for i in range(30) if i not in (20, 21, 22, 23, 24, 25, 26, 27)]
    assert shown.measures[0] == ("images", len(pool), len(world.released))
    assert shown.measures[1][1:] == (3, 3)
    assert {group.title.split(":")[0] for group in shown.examples} == {
        "Large cluster 0",
        "Large cluster 1",
        "Large cluster 2",
    }
    assert sum(group.total for group in shown.examples) == len(pool)
    captions = {p.image_id: p.captions[0] for group in shown.examples for p in group.pictures}
    assert captions[world.ids[0]] == "selected"
    assert all(captions.get(world.ids[i], "not selected") == "not selected" for i in (28, 29))


def test_the_composition_beside_what_was_published(found):
    header, row, last = concepts.made_of(found)
    assert dict(zip(header, row, strict=True))["difference"] == "1"
    assert dict(zip(header, last, strict=True))["unique"] == "20"


def test_a_run_of_before_shows_nothing(world, found, tmp_path):
    assert concepts.made_of(collect(Store(str(tmp_path)), None)) == []
    store = Store(str(tmp_path))
    assert concepts.measured(store, collect(store, None), None) is None


def _bars(svg, colour):
    rects = [r for r in ElementTree.fromstring(svg).iter("rect") if r.get("fill") == colour]
    return [(float(r.get("x")), float(r.get("height"))) for r in rects]


def test_ten_times_as_many_is_a_step_whatever_the_size():
    svg = charts.concepts([1000, 100, 10], [10, 0, 10], {"pets": [0, 4, 1]}, "words")
    grey = [height for _, height in _bars(svg, "#cdd4da")]
    assert np.diff(grey) == pytest.approx([grey[1] - grey[0]] * 2, abs=0.2)
    green = _bars(svg, charts.KEPT)
    assert len(green) == 2, "a cluster of which nothing was selected has no bar"
    assert green[0][1] == green[1][1] == grey[2]
    marks = [r for r in ElementTree.fromstring(svg).iter("rect") if r.get("opacity")]
    assert [float(mark.get("opacity")) for mark in marks] == [1.0, pytest.approx(0.44)]


def test_many_clusters_share_columns_and_names_are_escaped():
    svg = charts.concepts(list(range(5000, 0, -1)), [1] * 5000, {"<b>": [1] * 5000}, '"><script>')
    assert len(_bars(svg, "#cdd4da")) == 160
    assert "<script" not in svg
    assert "5,000 clusters, the largest first" in svg
