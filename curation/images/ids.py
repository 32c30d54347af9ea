"""The name of an image: a hash of its encoded bytes."""

import hashlib
from typing import BinaryIO

_PIECE_BYTES = 1 << 20


def image_id(data: bytes) -> str:
    """First 128 bits of the SHA-256 of the encoded bytes, as 32 lowercase hex digits."""
    return hashlib.sha256(data).hexdigest()[:32]


def image_id_of(file: BinaryIO, size_bytes: int | None = None) -> tuple[str, int]:
    """The id of the next ``size_bytes`` of a file (None: of the rest), read in pieces, and how many there were."""
    digest, left = hashlib.sha256(), size_bytes
    total = 0
    while piece := file.read(_PIECE_BYTES if left is None else min(left, _PIECE_BYTES)):
        digest.update(piece)
        total += len(piece)
        left = None if left is None else left - len(piece)
    return digest.hexdigest()[:32], total
