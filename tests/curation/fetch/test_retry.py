import time

import pytest

from curation.fetch.guard import retry_after_s
from curation.fetch.options import FetchOptions
from curation.fetch.outcome import FetchError
from curation.fetch.retry import pause_s
from curation.schema import Reason

OPTIONS = FetchOptions(retries=3, max_retry_after_s=30)
URL = "http://garden.test/a"


def status(number, asked=None):
    return FetchError(Reason.HTTP_ERROR, f"status {number}", status=number, retry_after_s=asked)


def test_pauses_double_and_end():
    pauses = [pause_s(URL, failures, status(503), OPTIONS) for failures in (1, 2, 3, 4)]
    assert pauses[3] is None
    for number, pause in enumerate(pauses[:3]):
        assert 0.75 <= pause / (0.5 * 2**number) <= 1.25


def test_urls_that_failed_together_are_not_tried_together():
    pauses = {pause_s(f"{URL}{n}", 1, status(503), OPTIONS) for n in range(100)}
    assert len(pauses) == 100
    assert max(pauses) - min(pauses) > 0.2
    assert pause_s(URL, 1, status(503), OPTIONS) == pause_s(URL, 1, status(503), OPTIONS)


@pytest.mark.parametrize(("asked", "pause"), [(20.0, 20.0), (30.0, 30.0), (31.0, None), (1e9, None)])
def test_a_server_is_waited_for_within_the_cap(asked, pause):
    assert pause_s(URL, 1, status(429, asked), OPTIONS) == pause


@pytest.mark.parametrize("reason", [Reason.PRIVATE_ADDRESS, Reason.TOO_MANY_BYTES, Reason.ROBOTS_DISALLOWED])
def test_what_will_not_pass_is_not_tried_again(reason):
    assert pause_s(URL, 1, FetchError(reason, ""), OPTIONS) is None
    assert pause_s(URL, 1, status(404), OPTIONS) is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("Fri, 20 Nov 2026 12:00:30 GMT", 30.0),
        ("Fri, 20 Nov 2026 11:00:00 GMT", 0.0),
        ("-5", None),
        ("1e3", None),
        ("soon", None),
        ("9" * 400, None),
        ("Fri, 99 Nov 99999 12:00:30 GMT", None),
    ],
)
def test_retry_after(value, seconds):
    noon = 1795176000.0
    assert time.gmtime(noon)[:5] == (2026, 11, 20, 12, 0)
    assert retry_after_s(value, noon) == seconds
