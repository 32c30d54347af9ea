import itertools

import pyarrow as pa
import pytest

from curation.fetch.permission import decide

STREAM = pa.schema([(name, pa.string()) for name in ("host", "url", "status", "body")])
A, B, C, D, E = (f"http://{name}.test" for name in "abcde")
ROWS = [
    (A, None, "rules", "User-agent: *\nDisallow: /x"),
    *((A, f"{A}/{'x' if n % 2 else 'y'}{n}", None, None) for n in range(6)),
    (B, f"{B}/x", None, None),  # was not asked: the rules of the host before it are not its own
    (C, None, "unreachable", "connection refused"),
    (C, f"{C}/x", None, None),
    (D, None, "private", "d.test is at a private address"),
    (D, f"{D}/x", None, None),
    (E, None, "allowed_all", "status 404"),
    (E, f"{E}/x", None, None),
]
A_REFUSED = [(f"{A}/x{n}", "robots_disallowed", f"{A}/robots.txt") for n in (1, 3, 5)]
A_ALLOWED = [(f"{A}/y{n}", None, None) for n in (0, 2, 4)]


def decided(size, fail_closed=True):
    rows = [dict(zip(STREAM.names, row, strict=True)) for row in ROWS]
    batches = (
        pa.RecordBatch.from_pylist(rows[at : at + size], schema=STREAM) for at in itertools.count(0, size) if rows[at:]
    )
    taken = itertools.islice(batches, -(-len(rows) // size))
    return [tuple(row.values()) for batch in decide(taken, "openlvd/0.1", fail_closed) for row in batch.to_pylist()]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_each_url_is_decided_by_its_own_host_however_the_stream_is_cut(size):
    assert sorted(decided(size), key=str) == sorted(
        [
            *A_REFUSED,
            *A_ALLOWED,
            (f"{B}/x", None, None),
            (f"{C}/x", "robots_unreachable", f"{C}/robots.txt: connection refused"),
            (f"{D}/x", "private_address", "d.test is at a private address"),
            (f"{E}/x", None, None),
        ],
        key=str,
    )


def test_open_lets_the_unreachable_through_but_not_the_private():
    answers = {url: reason for url, reason, _ in decided(4, fail_closed=False)}
    assert answers[f"{C}/x"] is None
    assert answers[f"{D}/x"] == "private_address"
