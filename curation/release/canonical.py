"""Canonical JSON: equal values give equal bytes, so that they can be hashed."""

import json
from typing import Any


def canonical_json(value: Any) -> bytes:
    """Keys sorted, no spaces, ASCII (so that hostile text stays harmless on a terminal), no NaN.

    Raises:
        ValueError: the value holds a NaN or an infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
