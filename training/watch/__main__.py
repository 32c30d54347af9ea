"""Write the page of a run: one HTML file that opens offline, while it goes on or afterwards."""

import argparse
from pathlib import Path

from conf import entry_point
from training.atomic import write_atomically
from training.run_folder import PAGE

EXAMPLE = """example:
  python -m training.watch runs/demo/training                  # writes runs/demo/training/watch.html
  python -m training.watch runs/demo/training -o /tmp/run.html
"""


def main() -> int:
    """Entry point of ``python -m training.watch``."""
    parser = argparse.ArgumentParser(
        prog="python -m training.watch",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="the folder of a run of training.launch")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help=f"the file to write (default: {PAGE} in the run's folder)"
    )
    arguments = parser.parse_args()
    from training.watch.page import build

    run = Path(arguments.run)
    page = build(run).encode()
    output = Path(arguments.output) if arguments.output else run / PAGE
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, page)
    print(f"wrote {output} ({len(page) / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    entry_point(main)
