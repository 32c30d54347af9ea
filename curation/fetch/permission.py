"""Which URLs their hosts let us fetch, decided in one pass over a stream: a host's answer, then its URLs."""

from collections.abc import Iterable, Iterator

import pyarrow as pa

from curation.fetch.robots import RobotsRecord, refusal

DECIDED = pa.schema([("url", pa.string()), ("reason", pa.string()), ("detail", pa.string())])


def decide(batches: Iterable[pa.RecordBatch], user_agent: str, fail_closed: bool) -> Iterator[pa.RecordBatch]:
    """Say of each URL why its host's robots.txt forbids it, or null where it does not.

    One robots.txt is held at a time, so that neither long ones nor hosts with very many URLs cost memory.

    Args:
        batches: columns ``host``, ``url``, ``status``, ``body``, sorted by host. The first row of a host has no
            ``url`` and is its :class:`RobotsRecord`, the others have nothing but their URL; a host without such a
            row was not asked, and allows everything.
        user_agent: the header we send.
        fail_closed: whether a host that is unreachable forbids everything.

    Yields:
        ``DECIDED`` rows, one for each URL, in the order given.
    """
    record: RobotsRecord | None = None
    for batch in batches:
        rows = []
        for row in batch.to_pylist():
            if row["url"] is None:
                record = RobotsRecord(row["host"], row["status"], row["body"])
                continue
            refused = None
            if record is not None and record.host == row["host"]:
                refused = refusal(record, row["url"], user_agent, fail_closed)
            reason, detail = (None, None) if refused is None else (refused[0].value, refused[1])
            rows.append({"url": row["url"], "reason": reason, "detail": detail})
        yield pa.RecordBatch.from_pylist(rows, schema=DECIDED)
