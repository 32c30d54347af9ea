"""The name of an image: a hash of its encoded bytes."""

import hashlib


def image_id(data: bytes) -> str:
    """First 128 bits of the SHA-256 of the encoded bytes, as 32 lowercase hex digits."""
    return hashlib.sha256(data).hexdigest()[:32]
