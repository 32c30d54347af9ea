"""Keyed hashes of what was taken down: they refuse it when it comes again, and name nobody without the key.

A list of bare hashes of URLs can be undone by hashing the URLs of a crawl; one of HMACs cannot, so the table may be
kept for ever, or shown, while the key stays in the store. Ids are hashed too: they are hashes of bytes that somebody
may have.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from curation.links.urls import normalise
from curation.schema import Reason
from curation.store import Store, locate
from curation.whole_files import put_whole

IMAGE, URL, DOMAIN = "image", "url", "domain"
FOLDER, KEY = "takedowns", "key"
_TOKEN_DIGITS = 32
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Tombstones:
    """All that a store keeps out.

    Attributes:
        key: of the HMAC, 32 bytes.
        requests: tombstone, hex, to the request that asked for it.
    """

    key: bytes
    requests: Mapping[str, str]

    def of(self, kind: str, value: str) -> str:
        """The tombstone of an image id, a normalised URL, or a host name: HMAC-SHA256, hex."""
        return hmac.digest(self.key, f"{kind}\0{value}".encode(), hashlib.sha256).hex()

    def of_image(self, image_id: str) -> str | None:
        """The request by which an image was taken down; None where it was not."""
        return self.requests.get(self.of(IMAGE, image_id))

    def of_url(self, url: str) -> str | None:
        """The request by which a normalised URL, or a domain that its host is in, was taken down."""
        if (request := self.requests.get(self.of(URL, url))) is not None:
            return request
        return next((r for name in names_of(url) if (r := self.requests.get(self.of(DOMAIN, name))) is not None), None)

    def refusing(self, url: str) -> tuple[Reason, str] | None:
        """Why a normalised URL must not be asked for, as rules tell it (``curation.links.rules``), or None."""
        request = self.of_url(url)
        return None if request is None else (Reason.TAKEN_DOWN, f"request {request}")

    def token(self, value: str, kind: str = URL) -> str:
        """What stands in place of a URL, a path or an id in the tables, once it was taken down."""
        return f"takedown:{self.of(kind, value)[:_TOKEN_DIGITS]}"

    def refused(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row of ``schema.FILES`` as it is, or without its id and with the reason why it is kept out."""
        request = self.of_image(row["image_id"]) if row["image_id"] else None
        if request is None and row["url"]:
            request = self.of_url(_spelt(row["url"]))
        if request is None:
            return row
        return row | {"image_id": None, "reason": Reason.TAKEN_DOWN.value, "detail": f"request {request}"}


def tombstones(store: Store) -> Tombstones | None:
    """What a store keeps out; None where nothing was ever taken down.

    Raises:
        ValueError: the key is gone, so that nobody can tell what is kept out.
    """
    rows = store.table("takedowns", ["tombstone", "request"])
    filesystem, path = locate(store.path(FOLDER, KEY))
    if not rows.num_rows:
        return None
    if not filesystem.exists(path):
        raise ValueError(f"{path}: the key of {rows.num_rows:,} takedowns is not there; put it back from a backup")
    requests = zip(rows["tombstone"].to_pylist(), rows["request"].to_pylist(), strict=True)
    return Tombstones(filesystem.cat_file(path), dict(requests))


def with_key(store: Store) -> Tombstones:
    """The same, with a new key where the store has none."""
    known = tombstones(store)
    if known is not None:
        return known
    filesystem, path = locate(store.path(FOLDER, KEY))
    if not filesystem.exists(path):
        put_whole(filesystem, path, secrets.token_bytes(32))
    return Tombstones(filesystem.cat_file(path), {})


def names_of(url: str) -> Iterator[str]:
    """The host of a normalised URL and every name above it, the longest first."""
    name = host_of(url)
    while name:
        yield name
        name = name.partition(".")[2]


def host_of(url: str) -> str:
    """The host of a normalised URL, without a port; an IPv6 address keeps its brackets."""
    authority = url.partition("://")[2].partition("/")[0]
    return authority.partition("]")[0] + "]" if authority.startswith("[") else authority.partition(":")[0]


def is_id(text: str) -> bool:
    """Whether a text is an image id."""
    return _ID.fullmatch(text) is not None


def _spelt(url: str) -> str:
    """The URL beside an imported file, as a link would be normalised."""
    try:
        return normalise(url)
    except ValueError:
        return url
