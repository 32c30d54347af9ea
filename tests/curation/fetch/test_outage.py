import pytest

from curation.fetch.outage import refuse_outage


@pytest.mark.parametrize(("failed", "total", "share"), [(0, 0, 0.9), (9, 10, 0.9), (16, 16, 1.0), (0, 5, 0.1)])
def test_what_a_web_may_lose(failed, total, share):
    refuse_outage(failed, total, share)


@pytest.mark.parametrize(("failed", "total", "share"), [(10, 10, 0.9), (1, 1, 0.5), (6, 10, 0.5)])
def test_an_outage_names_its_size_and_the_remedy(failed, total, share):
    with pytest.raises(ConnectionError, match=rf"{failed} of {total} URLs.*max_failed_share.*1\.0"):
        refuse_outage(failed, total, share)
