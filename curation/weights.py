"""Weights files: read whole, and parsed by nobody before their hash is known to be the right one."""

import hashlib

from curation.store import open_uri


def read_weights(path: str, sha256: str) -> bytes:
    """The bytes of a weights file, which has the given SHA-256 (hex).

    Raises:
        ValueError: the file cannot be read, or its SHA-256 is another.
    """
    try:
        with open_uri(path) as file:
            data = bytes(file.read())
    except OSError as error:
        raise ValueError(f"weights {path} cannot be read: {error}; set weights=PATH") from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise ValueError(f"weights {path} have the SHA-256 {found}, not {sha256}; get the right file")
    return data
