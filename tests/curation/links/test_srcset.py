import pytest

from curation.links.srcset import candidates


@pytest.mark.parametrize(
    ("srcset", "expected"),
    [
        ("a.jpg", [(0, 1, "a.jpg")]),
        ("a.jpg 1x, b.jpg 2x", [(0, 1, "a.jpg"), (0, 2, "b.jpg")]),
        ("a.jpg 320w,\n b.jpg 640w ", [(320, 1, "a.jpg"), (640, 1, "b.jpg")]),
        ("a,b.jpg 1.5x", [(0, 1.5, "a,b.jpg")]),
        ("a.jpg,b.jpg 2x", [(0, 2, "a.jpg,b.jpg")]),  # as browsers read it: a comma without a space belongs to the URL
        ("a.jpg, b.jpg 2x", [(0, 1, "a.jpg"), (0, 2, "b.jpg")]),
        (",, a.jpg 2x,,", [(0, 2, "a.jpg")]),
        ("https://cdn.test/w_1,h_2/a.jpg 100w, b 50w", [(100, 1, "https://cdn.test/w_1,h_2/a.jpg"), (50, 1, "b")]),
        ("a.jpg 640w 480h, b.jpg 1x", [(640, 1, "a.jpg"), (0, 1, "b.jpg")]),
        ("a.jpg (x,y) 2x, b.jpg", [(0, 1, "a.jpg"), (0, 1, "b.jpg")]),
        ("a.jpg -1w, b.jpg nanx", [(0, 1, "a.jpg"), (0, 1, "b.jpg")]),
        ("", []),
        (" , ,", []),
    ],
)
def test_candidates(srcset, expected):
    assert [tuple(c) for c in candidates(srcset)] == expected


def test_hostile_lengths_are_linear():
    assert len(candidates("a 1x, " * 100_000)) == 100_000
    assert len(candidates("a (" * 100_000)) >= 1
    assert len(candidates("," * 1_000_000)) == 0
