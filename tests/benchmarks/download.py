"""Small pictures from a server on loopback: curation.fetch, all guards on, beside plain img2dataset.

Both run in the same worker processes, which have imported img2dataset before the clock starts (it takes seconds, and
an executor pays it once), with the same threads, shards, and the original bytes into WebDataset tars. img2dataset
guards nothing: it asks 127.0.0.x itself, where ours goes by names that ``resolve`` maps there.
"""

import argparse
import functools
import json
import multiprocessing
import shutil
import tempfile
from collections.abc import Callable
from multiprocessing.pool import Pool
from pathlib import Path

import pyarrow as pa

from conf import entry_point
from curation.fetch.img2dataset_quiet import import_img2dataset
from curation.fetch.options import FetchOptions
from curation.fetch.permission import Permission
from curation.fetch.robots import RobotsRecord
from curation.fetch.shard import Fetcher
from curation.links.rules import BlockLists, read_rules
from tests.benchmarks import harness
from tests.benchmarks._image_server import serving

PER_SHARD = 1000
TIMEOUT_S = 20.0
_HOSTS_AT_MOST = 250  # one for each 127.0.0.x


def main() -> int:
    """Run the benchmark."""
    parser = harness.parser(
        "tests.benchmarks.download",
        "Images a second from a loopback server, beside plain img2dataset; peak memory at two sizes.",
        "--images 2000 --small 1000 --rounds 1",
        rounds=3,
    )
    parser.add_argument("--images", type=int, default=20_000, help="small pictures to fetch")
    parser.add_argument("--small", type=int, default=5_000, help="how many for the smaller measurement of memory")
    parser.add_argument("--hosts", type=int, default=100, help="that they are spread over")
    parser.add_argument("--threads", type=int, default=16, help="in a process")
    parser.add_argument("--processes", type=int, default=1, help="workers")
    parser.add_argument("--close", action="store_true", help="the server closes each connection after its answer")
    options = parser.parse_args()
    for key, most in (("images", 1_000_000), ("small", options.images), ("hosts", _HOSTS_AT_MOST)):
        if not 1 <= getattr(options, key) <= most:
            raise ValueError(f"--{key} {getattr(options, key)}: give 1 to {most}")
    with (
        tempfile.TemporaryDirectory(prefix="openlvd-benchmark-") as folder,
        serving(keep_alive=not options.close) as port,
        multiprocessing.get_context("spawn").Pool(options.processes, import_img2dataset) as pool,
    ):
        target = functools.partial(_Target, options, port, folder)
        contenders = {
            "ours": functools.partial(_run, pool, _ours, target(options.images)),
            "img2dataset": functools.partial(_run, pool, _peer, target(options.images)),
        }
        timing = harness.measure(contenders, options.rounds)
        sizes = [harness.peak_rss_bytes(_alone, target(count)) for count in (options.small, options.images)]
    for name, count in timing.results.items():
        assert count == options.images, f"{name} lost pictures: {count} of {options.images}"
    keys = {
        "images": options.images,
        "hosts": options.hosts,
        "threads": options.threads,
        "processes": options.processes,
        "keep_alive": not options.close,
        "images_per_s": options.images / timing.median_s(),
        **timing.speedups(),
        "small_images": options.small,
        "peak_rss_bytes_small": sizes[0],
        "peak_rss_bytes_large": sizes[1],
    }
    harness.finish("download", timing, keys)
    return 0


class _Target:
    """What is fetched, and where to."""

    def __init__(self, options: argparse.Namespace, port: int, folder: str, images: int) -> None:
        self.hosts, self.threads, self.processes = options.hosts, options.threads, options.processes
        self.port, self.folder, self.images = port, folder, images

    def shards(self) -> list[int]:
        """Numbers of the shards."""
        return list(range(-(-self.images // PER_SHARD)))

    def urls(self, shard: int, host: Callable[[int], str]) -> list[str]:
        """Those of one shard."""
        numbers = range(shard * PER_SHARD, min(self.images, (shard + 1) * PER_SHARD))
        return [f"http://{host(n % self.hosts)}/photos/{n:07d}.jpg" for n in numbers]


def _run(pool: Pool, fetch: Callable[[_Target, list[int]], int], target: _Target) -> int:
    """Fetch all shards in the pool's workers, each a task's share, and count the pictures."""
    shares = [target.shards()[n :: target.processes] for n in range(target.processes)]
    try:
        return sum(pool.imap_unordered(functools.partial(fetch, target), shares))
    finally:
        for path in Path(target.folder).iterdir():
            shutil.rmtree(path)


def _alone(target: _Target) -> None:
    """Ours in this process: what one worker's memory grows to."""
    assert _ours(target, target.shards()) == target.images


def _ours(target: _Target, shards: list[int]) -> int:
    """Everything on: addresses, caps, deadlines, robots rules, turns of hosts that nobody has to wait for."""
    options = FetchOptions(
        timeout_s=TIMEOUT_S,
        threads=target.threads,
        retries=0,
        requests_per_s=1e6,
        connections_per_host=target.threads,
        resolve={f"h{n}.test": f"127.0.0.{n + 1}:{target.port}" for n in range(target.hosts)},
    )
    hosts = [f"http://h{n}.test" for n in range(target.hosts)]
    rules = "User-agent: *\nDisallow: /private/\nCrawl-delay: 0\n"
    records = {host: RobotsRecord(host, "rules", f"# {host}\n{rules}") for host in hosts}
    blocked = BlockLists((read_rules(["blocked.test"], "mine"),))
    permission = Permission(records, blocked.refusing, options, fail_closed=True)
    count = 0
    with Fetcher(options) as fetcher:
        for shard in shards:
            urls = target.urls(shard, lambda n: f"h{n}.test")
            outcomes = fetcher.fetch_shard(urls, f"{shard:05d}", f"{target.folder}/ours", permission)
            count += sum(outcome.reason is None for outcome in outcomes)
    return count


def _peer(target: _Target, shards: list[int]) -> int:
    return sum(_peer_shard(target, shard) for shard in shards)


def _peer_shard(target: _Target, shard: int) -> int:
    """img2dataset's own downloader, writer and settings (``disable_all_reencoding``, no resizing)."""
    downloader, resizer = import_img2dataset()
    from img2dataset.writer import WebDatasetSampleWriter

    output = Path(target.folder) / "img2dataset"
    output.mkdir(exist_ok=True)
    listed = output / f"{shard:05d}.feather"
    urls = pa.table({"url": target.urls(shard, lambda n: f"127.0.0.{n + 1}:{target.port}")})
    with pa.OSFile(str(listed), "wb") as sink, pa.ipc.new_file(sink, urls.schema) as writer:
        writer.write_table(urls)
    job = downloader.Downloader(
        sample_writer_class=WebDatasetSampleWriter,
        resizer=resizer.Resizer(256, "no", False, disable_all_reencoding=True),
        thread_count=target.threads,
        save_caption=False,
        extract_exif=False,
        output_folder=str(output),
        column_list=["url"],
        timeout=TIMEOUT_S,
        number_sample_per_shard=PER_SHARD,
        oom_shard_count=5,
        compute_hash=None,
        verify_hash_type=None,
        encode_format="jpg",
        retries=0,
        user_agent_token=None,
        disallowed_header_directives=None,
    )
    job.download_shard((shard, str(listed)))
    stats = json.loads((output / f"{shard:05d}_stats.json").read_text())
    return int(stats["successes"])


if __name__ == "__main__":
    entry_point(main)
