"""What asking for a URL ends in: a body, another URL, or a reason."""

from dataclasses import dataclass

from curation.schema import Reason


@dataclass(frozen=True, slots=True)
class Fetched:
    """A complete response.

    Attributes:
        body: without any content encoding.
        headers: (name, value) pairs as sent.
        final_url: the address behind all redirects that were followed, normalised.
        num_redirects: how many these were.
        rights: signals in the headers, as ``header:noai``, sorted.
    """

    body: bytes
    headers: list[tuple[str, str]]
    final_url: str
    num_redirects: int = 0
    rights: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Moved:
    """A redirect that was not followed.

    Attributes:
        target: where it leads to, normalised.
        num_redirects: the one that leads there, and those followed before.
    """

    target: str
    num_redirects: int


class FetchError(Exception):
    """A URL that yields nothing, and why.

    Attributes:
        reason: what class of failure it is.
        message: the same text for the same behaviour of the server: no ports, times or byte counts.
        status: of an HTTP_ERROR, where there was one.
        rights: of a HEADER_OPTED_OUT.
        retry_after_s: how long the server wants to be left alone, where it says so.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        status: int | None = None,
        rights: tuple[str, ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(reason, message, status, rights, retry_after_s)
        self.reason = reason
        self.message = message
        self.status = status
        self.rights = rights
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"

    @property
    def may_pass(self) -> bool:
        """Whether another attempt may end better."""
        if self.reason is Reason.HTTP_ERROR:
            return self.status == 429 or (self.status or 0) >= 500
        return self.reason in (Reason.CONNECTION_FAILED, Reason.TIMED_OUT, Reason.INCOMPLETE_BODY)
