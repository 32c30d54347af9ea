import pytest

from curation.fetch.options import FetchOptions
from tests.curation.fetch.hostile import serving


@pytest.fixture
def server():
    with serving() as running:
        yield running


@pytest.fixture
def options(server):
    return FetchOptions(
        timeout_s=5.0,
        max_bytes=200_000,
        max_redirects=3,
        threads=4,
        retries=0,
        requests_per_s=1e6,
        resolve={"*.test": server.address},
    )
