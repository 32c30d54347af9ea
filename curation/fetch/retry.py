"""Further attempts at a URL whose failure may pass."""

import time

from curation.fetch.guard import fetch
from curation.fetch.options import FetchOptions
from curation.fetch.outcome import Fetched, FetchError

_FIRST_PAUSE_S = 0.5  # before the first retry; doubles for each further one


def fetch_patiently(url: str, options: FetchOptions, truncate: bool = False) -> Fetched:
    """:func:`curation.fetch.guard.fetch` with the configured retries, each after a pause.

    Raises:
        FetchError: of the last attempt, or of the first that another attempt cannot mend.
    """
    for attempt in range(options.retries):
        try:
            return fetch(url, options, truncate)
        except FetchError as error:
            if not error.may_pass:
                raise
        time.sleep(_FIRST_PAUSE_S * 2**attempt)
    return fetch(url, options, truncate)
