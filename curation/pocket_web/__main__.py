"""Builds or serves the pocket web."""

import argparse
import threading
from pathlib import Path

from conf import entry_point
from curation.pocket_web import build, serve


def main() -> int:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(
        prog="python -m curation.pocket_web",
        description="Build a small web with planted cases, or serve it on loopback for all its hosts.",
        epilog="example: python -m curation.pocket_web build runs/demo/web",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    builder = commands.add_parser("build", help="write the web and its truth.json; does nothing where it is already")
    builder.add_argument("folder", type=Path)
    builder.add_argument("--seed", type=int, default=0, help="another seed deals and plants otherwise")
    server = commands.add_parser("serve", help="answer on 127.0.0.1 until interrupted")
    server.add_argument("folder", type=Path)
    server.add_argument("--port", type=int, default=8765, help="0 takes a free one")
    options = parser.parse_args()
    if options.command == "build":
        truth = build(options.folder, options.seed)
        for group, counts in truth.totals.items():
            print(f"{group}: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
        return 0
    with serve(options.folder, options.port) as running:
        print(f"serving {options.folder} at 127.0.0.1:{running.port}; try:")
        print(f"  curl -s -H 'Host: redirect.test' -i http://127.0.0.1:{running.port}/good.jpg")
        threading.Event().wait()
    return 0


if __name__ == "__main__":
    entry_point(main)
