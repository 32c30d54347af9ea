"""Further attempts at a URL whose failure may pass."""

import time
import zlib
from collections.abc import Callable

from curation.fetch.guard import Client, Permit
from curation.fetch.options import FetchOptions
from curation.fetch.outcome import Fetched, FetchError

_FIRST_PAUSE_S = 0.5  # before the first retry, more or less; doubles for each further one


def pause_s(url: str, failures: int, error: FetchError, options: FetchOptions) -> float | None:
    """How long to wait before a URL is tried again, or None where it is not.

    The pause doubles with every failure and differs by up to a half from URL to URL, so that what failed together is
    not tried again together. It is at least what the server asks for.

    Args:
        url: that failed.
        failures: of this URL so far, the last included.
        error: the last.
        options: how many retries there are, and how long a server is waited for.
    """
    asked_s = error.retry_after_s or 0.0
    if not error.may_pass or failures > options.retries or asked_s > options.max_retry_after_s:
        return None
    share = zlib.crc32(f"{failures} {url}".encode()) / 2**32
    return max(asked_s, _FIRST_PAUSE_S * 2 ** (failures - 1) * (0.75 + 0.5 * share))


def fetch_patiently(
    url: str, client: Client, permit: Permit, wait_turn: Callable[[str], None], options: FetchOptions
) -> Fetched:
    """The first bytes of a URL, with the configured retries; every request, of a redirect too, waits for its turn.

    Raises:
        FetchError: of the last attempt, or of the first that another attempt cannot mend.
    """
    failures = 0
    while True:
        wait_turn(url)
        try:
            return client.fetch(url, permit, wait_turn, truncate=True)
        except FetchError as error:
            failures += 1
            pause = pause_s(url, failures, error, options)
            if pause is None:
                raise
        time.sleep(pause)
