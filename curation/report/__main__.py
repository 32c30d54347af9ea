"""Write the report of a run: one HTML file that opens offline."""

import argparse
from pathlib import Path

from conf import entry_point
from curation.report.page import Inputs, build

EXAMPLE = """example:
  python -m curation.report runs/demo/store --release runs/demo/release --training runs/demo/training \\
      --evaluation runs/demo/evaluation --truth runs/demo/web/truth.json -o runs/demo/report.html"""


def main() -> int:
    """Entry point of ``python -m curation.report``."""
    parser = argparse.ArgumentParser(
        prog="python -m curation.report",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("store", metavar="STORE", help="the store that the stages wrote")
    parser.add_argument("--release", metavar="DIR", help="the release that the publish stage wrote")
    parser.add_argument("--training", metavar="DIR", help="the folder of a training run")
    parser.add_argument("--evaluation", metavar="DIR", help="the folder of an evaluation")
    parser.add_argument("--truth", metavar="truth.json", help="what the pocket web planted")
    parser.add_argument("-o", "--output", metavar="report.html", required=True, help="the file to write")
    arguments = parser.parse_args()
    for key in ("store", "truth"):
        path = getattr(arguments, key)
        if path is not None and "://" not in path and not Path(path).exists():
            raise ValueError(f"{key} = {path!r}: no such file or folder; check the path, or run the pipeline first")
    page = build(Inputs(arguments.store, arguments.release, arguments.training, arguments.evaluation, arguments.truth))
    output = Path(arguments.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(output.name + ".partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(output)
    print(f"wrote {output} ({len(page.encode()) / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    entry_point(main)
