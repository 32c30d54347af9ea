"""A task's share of a download: streams of hosts to ask for their rules, and of URLs to fetch shard by shard."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import pyarrow as pa

from curation import schema
from curation.fetch.options import FetchOptions
from curation.fetch.permission import Blocked, Permission, check_blocked
from curation.fetch.pieces import landed
from curation.fetch.robots import RobotsRecord, ask_hosts
from curation.fetch.shard import Fetcher
from curation.fetch.turns import Pace

ANSWERS = pa.schema(
    [
        ("url", pa.string()),
        ("final_url", pa.string()),
        ("num_redirects", pa.int32()),
        ("has_moved", pa.bool_()),
        ("shard", pa.string()),
        ("offset_bytes", pa.int64()),
        ("size_bytes", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("rights", pa.list_(pa.string())),
    ]
)
"""A row for each URL: :class:`curation.fetch.shard.Outcome`."""

_RULES_BYTES = 64 << 20  # of robots.txt held for one shard


class Asking:
    """Asks, lands what comes back, and takes what has landed for an answer.

    Args:
        folder: of the run, local or an fsspec URI.
        round_number: 0 for links, n for what they lead to after n redirects to other places.
        urls_per_shard: at most.
        options: limits and manners.
        blocked: rules that no request may break.
        fail_closed: whether a host that is unreachable forbids everything.
    """

    def __init__(
        self,
        folder: str,
        round_number: int,
        urls_per_shard: int,
        options: FetchOptions,
        blocked: Blocked,
        fail_closed: bool,
    ) -> None:
        self._folder = folder
        self._round = round_number
        self._urls_per_shard = urls_per_shard
        self._options = options
        self._blocked = blocked
        self._fail_closed = fail_closed

    def hosts(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Ask hosts for their robots.txt.

        Args:
            batches: columns ``bucket`` and ``host``, sorted by both. A bucket lands as one piece.

        Yields:
            ``schema.ROBOTS`` rows.
        """
        bucket, hosts = -1, list[str]()
        pace = Pace(1 / self._options.requests_per_s)
        for row in _rows(batches):
            if row["bucket"] != bucket and hosts:
                yield from self._robots(bucket, hosts, pace)
                hosts = []
            bucket = row["bucket"]
            hosts.append(row["host"])
        if hosts:
            yield from self._robots(bucket, hosts, pace)

    def urls(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Fetch URLs.

        A lane is cut into shards in the order given, so that a shard's members follow from the lane alone. All URLs of
        a host are in one lane, which is what holds its rate: nobody else asks it.

        Args:
            batches: columns ``lane``, ``host``, ``url``, ``status``, ``body``, sorted by these. The first row of a host
                has no ``url`` and is its :class:`RobotsRecord`, the others have nothing but their URL; a host without
                such a row was not asked, and allows everything.

        Yields:
            ``ANSWERS`` rows, one for each URL.
        """
        lane, part, rules_bytes = -1, 0, 0
        record: RobotsRecord | None = None
        urls, records = list[str](), dict[str, RobotsRecord]()
        with Fetcher(self._options) as fetcher:
            for row in _rows(batches):
                is_full = len(urls) == self._urls_per_shard or rules_bytes > _RULES_BYTES
                if urls and (row["lane"] != lane or is_full):
                    yield from self._shard(fetcher, f"{self._round}-{lane:06d}-{part:04d}", urls, records)
                    urls, records, part, rules_bytes = [], {}, part + 1, 0
                if row["lane"] != lane:
                    lane, part = row["lane"], 0
                if row["url"] is None:
                    record = RobotsRecord(row["host"], row["status"], row["body"])
                    continue
                urls.append(row["url"])
                if record is not None and record.host == row["host"] and record.host not in records:
                    records[record.host] = record
                    rules_bytes += len(record.body)
            if urls:
                yield from self._shard(fetcher, f"{self._round}-{lane:06d}-{part:04d}", urls, records)

    def _robots(self, bucket: int, hosts: list[str], pace: Pace) -> Iterator[pa.RecordBatch]:
        def make() -> pa.Table:
            permit = partial(check_blocked, blocked=self._blocked)
            records = (record for some in ask_hosts(hosts, permit, pace, self._options) for record in some)
            return pa.Table.from_pylist([asdict(record) for record in records], schema=schema.ROBOTS.schema)

        path = f"{self._folder}/robots-{self._round}-{bucket:06d}.parquet"
        yield from landed(path, "host", hosts, make).to_batches()

    def _shard(
        self, fetcher: Fetcher, name: str, urls: list[str], records: dict[str, RobotsRecord]
    ) -> Iterator[pa.RecordBatch]:
        def make() -> pa.Table:
            permission = Permission(records, self._blocked, self._options, self._fail_closed)
            outcomes = fetcher.fetch_shard(urls, name, self._folder, permission)
            return pa.Table.from_pylist([asdict(outcome) for outcome in outcomes], schema=ANSWERS)

        yield from landed(f"{self._folder}/{name}.parquet", "url", urls, make).to_batches()


def _rows(batches: Iterable[pa.RecordBatch]) -> Iterator[dict[str, Any]]:
    for batch in batches:
        yield from batch.to_pylist()
