"""What fetching a URL ends in: a body, or a reason."""

from dataclasses import dataclass

from curation.schema import Reason


@dataclass(frozen=True, slots=True)
class Fetched:
    """A complete response.

    Attributes:
        body: without any content encoding.
        headers: (name, value) pairs as sent.
        final_url: the address behind all redirects, normalised.
        rights: signals in the headers, as ``header:noai``, sorted.
    """

    body: bytes
    headers: list[tuple[str, str]]
    final_url: str
    rights: tuple[str, ...] = ()


class FetchError(Exception):
    """A URL that yields nothing, and why.

    Attributes:
        reason: what class of failure it is.
        message: the same text for the same behaviour of the server: no ports, times or byte counts.
        status: of an HTTP_ERROR, where there was one.
        rights: of a HEADER_OPTED_OUT.
    """

    def __init__(self, reason: Reason, message: str, status: int | None = None, rights: tuple[str, ...] = ()) -> None:
        super().__init__(reason, message, status, rights)
        self.reason = reason
        self.message = message
        self.status = status
        self.rights = rights

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"

    @property
    def may_pass(self) -> bool:
        """Whether another attempt may end better."""
        if self.reason is Reason.HTTP_ERROR:
            return self.status == 429 or (self.status or 0) >= 500
        return self.reason in (Reason.CONNECTION_FAILED, Reason.TIMED_OUT, Reason.INCOMPLETE_BODY)
