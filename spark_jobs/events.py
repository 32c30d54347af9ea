"""A JSON-lines log of what ran, for machines: one object a line, appended whole."""

import json
import time
from typing import Any

from curation.store import locate


class EventLog:
    """Appends events to one file; each has ``time`` (Unix seconds) and ``event``."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def write(self, event: str, **fields: Any) -> None:
        """Append one event."""
        filesystem, path = locate(self.uri)
        filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
        with filesystem.open(path, "ab") as file:
            file.write((json.dumps({"time": round(time.time(), 3), "event": event, **fields}) + "\n").encode())
