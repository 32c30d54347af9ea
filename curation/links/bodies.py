"""HTTP bodies without their encodings, each with a cap on what comes out."""

import gzip
import io
import re
import zlib
from typing import Any, BinaryIO

_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,8})[^\r\n]*\r?\n")
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
_FIRST_BLOCK_BYTES = 256


class BodyError(ValueError):
    """A body that does not match its declared encoding, or that unpacks to too much."""


class BodyTooLargeError(BodyError):
    """A body that unpacks to more than the cap."""


def decoded_body(body: bytes, transfer_encoding: str, content_encoding: str, max_bytes: int) -> bytes:
    """Undo chunking and compression.

    Many archives hold bodies that are decoded already under headers that are not: what is not chunked, and what
    carries no gzip mark, is taken as it is.

    Raises:
        BodyError: damaged or truncated compression, an encoding we do not read, more than ``max_bytes``.
    """
    if "chunked" in transfer_encoding.lower():
        body = _dechunk(body)
    for encoding in reversed([token.strip().lower() for token in content_encoding.split(",")]):
        match encoding:
            case "" | "identity":
                continue
            case "gzip" | "x-gzip" | "deflate":
                body = decompress(body, encoding, max_bytes)
            case _ if body.lstrip()[:1] == b"<":
                continue
            case _:
                raise BodyError(f"content encoding {encoding[:20]!r} is not read")
    return body


def decompress(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Decompress gzip (all members) or deflate (zlib or raw); a body without their mark comes back unchanged.

    Raises:
        BodyError: damaged or truncated.
        BodyTooLargeError: more than ``max_bytes`` come out.
    """
    if encoding == "deflate":
        window = _GZIP_OR_ZLIB if body[:1] == b"\x78" else -zlib.MAX_WBITS
        if body.lstrip()[:1] == b"<":
            return body
    elif not body.startswith(b"\x1f\x8b"):
        return body
    else:
        window = _GZIP_OR_ZLIB
    out, position = bytearray(), 0
    while position < len(body) and (position == 0 or body.startswith(b"\x1f\x8b", position)):
        position = _unpack_member(body, position, out, zlib.decompressobj(window), encoding, max_bytes)
    return bytes(out)


def _unpack_member(
    body: bytes, position: int, out: bytearray, unpacker: "zlib._Decompress", encoding: str, max_bytes: int
) -> int:
    """Append what one member holds; returns where it ends."""
    # What a member leaves of its last block is copied, so blocks grow with the member: many may be tiny.
    block_bytes = _FIRST_BLOCK_BYTES
    while not unpacker.eof:
        block = body[position : position + block_bytes]
        if not block:
            raise BodyError(f"truncated {encoding} body")
        try:
            out += unpacker.decompress(block, max_bytes + 1 - len(out))
        except zlib.error as error:
            raise BodyError(f"damaged {encoding} body") from error
        if len(out) > max_bytes:
            raise BodyTooLargeError(f"body unpacks to more than {max_bytes} bytes")
        position += len(block) - len(unpacker.unused_data)
        block_bytes *= 2
    return position


class Gunzipped(io.RawIOBase):
    """What is inside a gzip file (all members), read as a stream.

    Reading raises BodyError where it is damaged or truncated, BodyTooLargeError where more than ``max_bytes`` come
    out.

    Args:
        file: at its start; it stays open.
        max_bytes: cap on what comes out.
    """

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        self._unpacked = gzip.GzipFile(fileobj=file, mode="rb")
        self._max_bytes = max_bytes
        self._left = max_bytes

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, or as much of it as there is."""
        try:
            count = self._unpacked.readinto(buffer)
        except EOFError as error:
            raise BodyError("truncated gzip file") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise BodyError("damaged gzip file") from error
        self._left -= count
        if self._left < 0:
            raise BodyTooLargeError(f"unpacks to more than {self._max_bytes} bytes")
        return count


def gunzip_start(head: bytes, max_bytes: int) -> bytes:
    """The first bytes inside the gzip file that begins with ``head``; empty where it is damaged."""
    try:
        return zlib.decompressobj(_GZIP_OR_ZLIB).decompress(head, max_bytes)
    except zlib.error:
        return b""


def _dechunk(body: bytes) -> bytes:
    """Join the chunks; from the first wrong chunk on (or all, where none is right) the bytes are kept as they are."""
    out, position = bytearray(), 0
    while match := _CHUNK_SIZE.match(body, position):
        size, start = int(match[1], 16), match.end()
        if size == 0:
            return bytes(out)
        if start + size > len(body):
            break
        out += body[start : start + size]
        position = start + size
        position += 2 if body[position : position + 2] == b"\r\n" else body[position : position + 1] == b"\n"
    return bytes(out + body[position:])
