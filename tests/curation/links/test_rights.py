import pytest

from curation.links.rights import header_signals, meta_signals


@pytest.mark.parametrize(
    ("value", "signals"),
    [
        ("unavailable_after: Fri, 25 Jun 2010 15:00:00 PST, noai, noindex", ["noai", "noindex"]),
        ("noai, unavailable_after: 2010-06-25T15:00:00, noimageai", ["noai", "noimageai"]),
        ("otherbot: noai, unavailable_after: Fri, 25 Jun 2010 15:00:00 PST, noindex", []),
        ("otherbot: noai, openlvd: noindex, noimageai", ["noimageai", "noindex"]),
        ("None", ["noindex", "none"]),
        ("otherbot: none", []),
    ],
)
def test_robots_headers(value, signals):
    assert header_signals([("X-Robots-Tag", value)], "openlvd") == signals


def test_none_says_noindex_in_markup_too():
    assert meta_signals("robots", "NONE, noai") == ["noai", "noindex", "none"]
