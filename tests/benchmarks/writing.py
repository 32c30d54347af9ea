"""Release shards beside ``cp`` of the same bytes: the shard writer of publish, nothing blurred.

Ours reads every image from the store's tar by range, checks that its bytes are those of its id, and writes tars with
the SHA-256 of each member and of each shard: what a task of publish does. It runs in as many processes as there are
cores, as Spark would. The peers copy the same tars, which lie in the page cache for all, or with ``--cold`` for none:

- ``cp``: one ``cp`` of all tars, one process, no digest;
- ``cp_tasks``: a ``cp`` a core;
- ``cp_sha256``: a ``cp`` a core, each followed by ``sha256sum`` of the copy: the same knowledge of the result;
- with ``--sync``, ours and every peer also wait until the bytes are on the disk (``sync -d`` of each file).

Each writes into an empty folder; what it wrote a round before is removed while no clock runs.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from conf import entry_point
from curation.fetch.tars import TarWriter
from curation.images.ids import image_id
from curation.read_ahead import ReadAhead
from curation.release.blurring import Lookout, LookoutSpec
from curation.release.making import make_shard
from curation.release.samples import sample
from curation.store import Store
from spark_jobs.near_exact import place
from tests.benchmarks import harness

_NOBODY = Lookout(LookoutSpec(detectors={}, records={}, labels=[]))
_PEERS = ("cp", "cp_tasks", "cp_sha256")


def main() -> int:
    """Run the benchmark."""
    parser = harness.parser(
        "tests.benchmarks.writing", "Release shards beside cp of the same bytes.", "--megabytes 200 --rounds 3"
    )
    parser.add_argument("--megabytes", type=int, default=500, help="of images")
    parser.add_argument("--image-bytes", type=int, default=100_000, help="of an image, on average")
    parser.add_argument("--shard-megabytes", type=int, default=50, help="of a shard")
    parser.add_argument("--tasks", type=int, default=harness.hardware()["cores"], help="processes that write")
    parser.add_argument("--sync", action="store_true", help="wait for the disk, ours and the peers alike")
    parser.add_argument("--cold", action="store_true", help="drop the store's tars from the page cache before each")
    parser.add_argument("--folder", help="where it is written; the system's temporary folder by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="openlvd-writing-", dir=options.folder) as root:
        groups = make_store(Path(root), options.megabytes, options.image_bytes, options.shard_megabytes)
        timing = measure_writing(Path(root), groups, options.tasks, options.rounds, options.sync, options.cold)
        size = sum(path.stat().st_size for path in Path(root, "ours").glob("*.tar"))
        copied = sum(path.stat().st_size for path in Path(root, "store", "shards", "made").glob("*.tar"))
    keys: dict[str, Any] = {"mb_per_s": size / 1e6 / timing.median_s()}
    keys |= {"sync": options.sync, "cold": options.cold, "tasks": options.tasks}
    for peer in _PEERS:  # of speeds, so bytes that are ours alone count
        ratios = {key: value * size / copied for key, value in timing.speedup(peer).items()}
        keys |= {key.replace("speedup_", "speed_ratio_"): value for key, value in ratios.items()}
    harness.finish("writing", timing, keys)
    return 0


def make_store(root: Path, megabytes: int, image_bytes: int, shard_megabytes: int) -> list[list[dict[str, Any]]]:
    """A store's tars of random bytes, and the rows of each shard to be, in an order that is not the tars'."""
    rng, rows = np.random.default_rng(0), list[dict[str, Any]]()
    folder = root / "store" / "shards" / "made"
    folder.mkdir(parents=True)
    for number in range(-(-megabytes // shard_megabytes)):
        with (folder / f"{number:05d}.tar").open("wb") as file:
            tar, size = TarWriter(file), 0
            while size < shard_megabytes * 1_000_000:
                data = rng.bytes(int(rng.integers(image_bytes // 2, 3 * image_bytes // 2)))
                offset = tar.add(f"{len(rows):08d}.jpg", data)
                size += len(data)
                rows.append(_row(image_id(data), f"store:shards/made/{number:05d}.tar", offset, len(data)))
            tar.close()
    order = np.random.default_rng(1).permutation(len(rows))
    return [[rows[i] for i in part] for part in np.array_split(order, max(1, megabytes // shard_megabytes))]


def _row(name: str, shard: str, offset: int, size: int) -> dict[str, Any]:
    place = {"image_id": name, "shard": shard, "offset_bytes": offset, "size_bytes": size}
    facts = {"format": "JPEG", "width": 640, "height": 480, "boxes": None, "collection": "pool", "source": "all"}
    met = {"urls": [f"http://garden.test/{name}.jpg"], "pages": ["http://garden.test/"], "paths": [], "rights": []}
    return place | facts | met | {"cluster": 1}


def write_group(store: str, release: str, name: str, rows: list[dict[str, Any]], sync: bool) -> str:
    """One task of publish: read, check, write, hash. Returns the shard's SHA-256."""
    of = Store(store)
    with of.shard_reader() as read:
        ahead = ReadAhead(of, read, map(place, rows))
        made = make_shard(release, name, (released(row, ahead) for row in rows))
    if sync:
        with Path(release, name).open("rb") as file:
            os.fdatasync(file.fileno())
    return made.sha256


def released(row: dict[str, Any], read: Callable[[str, int, int], bytes]) -> Any:
    """The sample of a row, whose bytes are there."""
    found, _ = sample(row, read, _NOBODY)
    assert found is not None
    return found


def measure_writing(
    root: Path, groups: list[list[dict[str, Any]]], tasks: int, rounds: int, sync: bool, cold: bool
) -> harness.Timing:
    """Ours and the peers; what ours wrote is checked once against its own digests."""
    tars = sorted(str(path) for path in (root / "store" / "shards" / "made").glob("*.tar"))
    names = [f"{number:05d}.tar" for number in range(len(groups))]
    pool = ProcessPoolExecutor(tasks, mp_context=get_context("forkserver"))

    def ours() -> list[str]:
        calls = [
            pool.submit(write_group, str(root / "store"), str(root / "ours"), name, rows, sync)
            for name, rows in zip(names, groups, strict=True)
        ]
        return [call.result() for call in calls]

    def copies(name: str, batches: list[list[str]], hashed: bool) -> Callable[[], None]:
        def copy() -> None:
            scripts = [_script(batch, str(root / name), hashed, sync) for batch in batches]
            started = [subprocess.Popen(["bash", "-c", script]) for script in scripts]
            assert not any(process.wait() for process in started)

        return copy

    def empty(name: str) -> None:
        shutil.rmtree(root / name, ignore_errors=True)
        (root / name).mkdir()
        if sync:
            os.sync()  # the removal too, and what others wrote
        for tar in tars if cold else ():
            forget(tar)

    dealt = [tars[start::tasks] for start in range(tasks) if tars[start::tasks]]
    contenders = {
        "ours": ours,
        "cp": copies("cp", [tars], hashed=False),
        "cp_tasks": copies("cp_tasks", dealt, hashed=False),
        "cp_sha256": copies("cp_sha256", dealt, hashed=True),
    }
    with pool:
        timing = harness.measure(contenders, rounds, before=empty)
    for name, digest in zip(names, timing.results["ours"], strict=True):
        assert hashlib.sha256((root / "ours" / name).read_bytes()).hexdigest() == digest, f"{name} is another"
    return timing


def forget(path: str) -> None:
    """Drop a file from the page cache, so that the next reader waits for the disk."""
    with Path(path).open("rb") as file:
        os.fsync(file.fileno())  # what is not on the disk yet cannot be dropped
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _script(tars: list[str], target: str, hashed: bool, sync: bool) -> str:
    made = [f"{target}/{Path(tar).name}" for tar in tars]
    lines = ["set -e", f"cp {' '.join(tars)} {target}/"]
    lines += [f"sync -d {' '.join(made)}"] if sync else []
    lines += [f"sha256sum {' '.join(made)} > {target}/digests"] if hashed else []
    return "\n".join(lines)


if __name__ == "__main__":
    entry_point(main)
