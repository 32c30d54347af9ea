"""The download as a stage: hostile servers, redirects between hosts, rates over tasks, and a kill in the middle."""

import collections
import itertools
import os
import signal
import subprocess
import sys
import time

import pytest

from conf import load
from curation.links.urls import normalise
from curation.schema import Reason
from curation.store import Store
from spark_jobs.config import CurationConfig
from tests.curation.fetch import hostile
from tests.spark_jobs.equality import assert_same_tables

pytestmark = pytest.mark.spark

RECIPE = "conf/curation/demo.yaml"


@pytest.fixture
def server():
    with hostile.serving() as running:
        yield running


def overrides(out, server, urls, **fetch):
    """The demo's recipe on a list of URLs that the hostile server answers for."""
    listed = out / "urls.txt"
    listed.write_text("\n".join(urls) + "\n")
    fetch = {"timeout_s": 1.0, "max_bytes": 200_000, "max_redirects": 1, "retries": 0, "requests_per_s": 1e6} | fetch
    return [
        f"store={out / 'store'}",
        f"release={out / 'release'}",
        "sources.pages=[]",
        f"sources.urls=[{listed}]",
        "sources.collections={}",
        "recipe.dedup.against=[]",
        "recipe.retrieve.sets={}",
        f'runtime.resolve={{"*.test": "{server.address}"}}',
        *(f"recipe.download.fetch.{key}={value}" for key, value in fetch.items()),
    ]


def rows(config, table="fetches"):
    return Store(config.store).table(table).to_pylist()


def test_every_misbehaviour_is_a_row_with_its_reason(tmp_path, server, run_stages):
    server.robots_of = {"lawn.test": (200, b"User-agent: *\nDisallow: /"), "mute.test": (503, b"")}
    # names that only the test's own name service knows are left to the tests without Spark
    urls = {normalise(url): hostile.expected(url) for url in hostile.URLS if ".org" not in url}
    urls |= {
        "https://garden.test/good": (
            Reason.ROBOTS_UNREACHABLE,
            "https://garden.test/robots.txt: TLS handshake failed",
        ),
        "http://garden.test/redirect?http://lawn.test/good": (
            Reason.ROBOTS_DISALLOWED,
            "http://lawn.test/robots.txt",
        ),
        "http://garden.test/redirect?http://mute.test/good": (
            Reason.ROBOTS_UNREACHABLE,
            "http://mute.test/robots.txt: status 503",
        ),
        "http://lawn.test/good": (Reason.ROBOTS_DISALLOWED, "http://lawn.test/robots.txt"),
    }
    config = load(CurationConfig, RECIPE, [*overrides(tmp_path, server, urls), "recipe.download.urls_per_shard=20"])
    report = run_stages(config, until="download")[-1]
    assert report.rows_in == len(urls) == report.kept + sum(report.dropped.values())
    found = {row["url"]: (row["reason"], row["detail"] or "") for row in rows(config)}
    assert found.keys() == urls.keys()
    assert {url: (reason, detail[: len(urls[url][1] or "")]) for url, (reason, detail) in found.items()} == {
        url: (reason and reason.value, detail or "") for url, (reason, detail) in urls.items()
    }
    asked = collections.Counter((host, path) for host, path, _ in server.requests)
    assert {host for host, _ in asked} == {f"{name}.test" for name in ("garden", "lake", "lawn", "mute", "h0")}
    assert [path for host, path in asked if host in ("lawn.test", "mute.test")] == ["/robots.txt"] * 2
    robots = {host: count for (host, path), count in asked.items() if path == "/robots.txt"}
    assert set(robots.values()) == {1}, "a host is asked once for its rules"
    assert {row["host"] for row in rows(config, "robots")} >= {f"http://{host}" for host in robots}


def test_what_many_lead_to_is_asked_for_once(tmp_path, server, run_stages):
    target = "http://lake.test/good?7"
    urls = [target, *(f"http://{name}.test/redirect?{target}" for name in "abc"), "http://d.test/redirect?/good"]
    config = load(CurationConfig, RECIPE, overrides(tmp_path, server, urls))
    run_stages(config, until="download")
    found = {row["url"]: row for row in rows(config)}
    assert {row["reason"] for row in found.values()} == {None}
    places = {(found[url]["shard"], found[url]["offset_bytes"]) for url in urls[:4]}
    assert len(places) == 1
    assert {found[url]["final_url"] for url in urls[:4]} == {target}
    assert [path for host, path, _ in server.requests].count("/good?7") == 1
    store = Store(config.store)
    with store.shard_reader() as read:
        row = found[urls[1]]
        assert read(row["shard"], row["offset_bytes"], row["size_bytes"]) == hostile.GOOD + b"/good?7"
    metrics = store.runs()["download"].metrics
    assert (metrics["asked"], metrics["moved"], metrics["failures"]) == (5, 3, {})


def test_a_host_is_not_asked_faster_however_many_tasks_there_are(tmp_path, server, run_stages):
    """Ten shards in several tasks; five URLs a host and second, and one where robots.txt wants a longer pause."""
    server.robots_of = {"slow.test": (200, b"User-agent: *\nCrawl-delay: 0.4")}
    urls = [f"http://{name}.test/good?{n}" for name, count in (("a", 8), ("b", 8), ("slow", 4)) for n in range(count)]
    config = load(
        CurationConfig,
        RECIPE,
        [*overrides(tmp_path, server, urls, requests_per_s=5.0), "recipe.download.urls_per_shard=2"],
    )
    assert run_stages(config, until="download")[-1].kept == len(urls)
    for host, pause_s in (("a.test", 0.2), ("b.test", 0.2), ("slow.test", 0.4)):
        times = server.times[host][1:]  # the first is for robots.txt
        gaps = [after - before for before, after in itertools.pairwise(times)]
        assert min(gaps) > 0.6 * pause_s  # a request may be sent a little late, and the next one not
        assert sum(gaps) > 0.95 * pause_s * len(gaps)


@pytest.mark.slow
def test_what_landed_before_a_kill_is_not_asked_for_again(tmp_path, server, run_stages):
    urls = [f"http://{name}.test/good?{n}" for name in "abcd" for n in range(40)]
    more = ["recipe.download.urls_per_shard=10", "runtime.spark.master=local[2]"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    config = load(CurationConfig, RECIPE, [*overrides(whole, server, urls, requests_per_s=10.0), *more])
    run_stages(config, until="download")
    server.requests.clear()

    arguments = [*overrides(killed, server, urls, requests_per_s=10.0), *more]
    with (killed / "log").open("wb") as log:
        command = [sys.executable, "-m", "spark_jobs.run", RECIPE, *arguments, "--until", "download"]
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        while len(list(killed.glob("store/shards/*/0-*.parquet"))) < 4:
            assert process.poll() is None, (killed / "log").read_text()
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    num_asked = -1
    while num_asked != len(server.requests):  # a worker may live until it finds that nobody reads its answers
        num_asked = len(server.requests)
        time.sleep(1.5)
    pieces = list(killed.glob("store/shards/*/*.parquet"))
    landed = {url for piece in pieces for url in _column(piece)}
    before = collections.Counter(f"http://{host}{path}" for host, path, _ in server.requests)
    assert 40 <= len([url for url in landed if "/good" in url]) < len(urls)

    run_stages(load(CurationConfig, RECIPE, arguments), until="download")
    after = collections.Counter(f"http://{host}{path}" for host, path, _ in server.requests)
    assert {url for url in after if after[url] > before[url]}.isdisjoint(landed)
    assert all(after[f"http://{name}.test/robots.txt"] == 1 for name in "abcd")
    assert_same_tables(str(whole / "store"), str(killed / "store"), ("robots", "fetches", "decisions"))
    assert not list(killed.glob("store/shards/*/.*.part"))


def _column(piece):
    import pyarrow.parquet as pq

    table = pq.ParquetFile(piece).read(use_threads=False)
    return table.column("host" if "host" in table.column_names else "url").to_pylist()
