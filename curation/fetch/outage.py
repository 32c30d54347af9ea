"""Tell an outage on our side from a web that has lost some of its pages."""

from curation.schema import Reason

# what a URL ends in when the network, or its name service, is down
SYMPTOMS = (Reason.CONNECTION_FAILED, Reason.TIMED_OUT, Reason.ROBOTS_UNREACHABLE)


def refuse_outage(failed: int, total: int, max_share: float) -> None:
    """Stop before an outage is recorded as what became of the URLs.

    Args:
        failed: URLs that ended in one of the ``SYMPTOMS``.
        total: URLs asked for.
        max_share: of them that may fail so.

    Raises:
        ConnectionError: more than that.
    """
    if failed > max_share * total:
        raise ConnectionError(
            f"{failed} of {total} URLs have a host that cannot be reached or does not answer, more than the share "
            f"{max_share:g} of recipe.download.max_failed_share; nothing is recorded. Check the network and start "
            "again, or set that to 1.0 to record it"
        )
