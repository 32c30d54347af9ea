import pytest
from pydantic import ValidationError

from curation.fetch.options import FetchOptions


@pytest.mark.parametrize(
    "values",
    [
        {"resolve": {"*.test": "localhost:80"}},
        {"resolve": {"*.test": "127.0.0.1"}},
        {"resolve": {"*": "127.0.0.1:80"}},
        {"user_agent": "two\r\nHost: lines"},
        {"user_agent": ""},
        {"disallowed_header_directives": ["noindex", "no-ai"]},
        {"timeout_s": 0},
        {"time_out": 3},
    ],
)
def test_bad_options_are_refused(values):
    with pytest.raises(ValidationError):
        FetchOptions(**values)


def test_resolve_matches_whole_labels():
    options = FetchOptions(resolve={"*.test": "127.0.0.1:1", "one.test": "[::1]:2"})
    assert options.mapped("one.test") == ("::1", 2)
    assert options.mapped("a.b.test") == ("127.0.0.1", 1)
    assert options.mapped("test") is None
    assert options.mapped("contest") is None
    assert options.mapped("garden.test.org") is None


def test_agent_token():
    assert FetchOptions(user_agent="openlvd/0.1 (+x)").agent_token == "openlvd"
    assert FetchOptions(user_agent="mybot (+https://x.org/y)").agent_token == "mybot"
