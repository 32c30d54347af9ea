"""``python -m curation.release verify DIR``."""

import argparse
import os
from itertools import islice

from conf import entry_point
from curation.release.printable import printable
from curation.release.reader import ReleaseReader
from curation.release.verify import verify

_SHOWN = 20


def main() -> int:
    """Verify a release: 0 when it is sound, 1 when it is not; anything that kept us from judging it raises (2)."""
    parser = argparse.ArgumentParser(
        prog="python -m curation.release",
        description="Check a release from its own files.",
        epilog="example: python -m curation.release verify runs/demo/release",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "verify",
        help="check every digest, count, id and image",
        description="Exit code 0: sound. 1: wrong, with the shard and member named. 2: not judged.",
        epilog="example: python -m curation.release verify runs/demo/release --workers 8",
    )
    command.add_argument("release", metavar="DIR", help="folder or URI that holds manifest.json")
    command.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="shards read at a time (%(default)s)")
    options = parser.parse_args()

    problems = list(islice(verify(options.release, options.workers), _SHOWN + 1))
    for problem in problems[:_SHOWN]:
        print(f"FAIL {printable(str(problem))}")
    if len(problems) > _SHOWN:
        print(f"... and more; these are the first {_SHOWN}")
    if problems:
        return 1
    manifest = ReleaseReader(options.release).manifest
    print(f"ok: {manifest.images} images in {len(manifest.shards)} shards, release {manifest.digest}")
    return 0


if __name__ == "__main__":
    entry_point(main)
