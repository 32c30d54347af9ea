"""One whole run, from web pages to trained and scored features, and a report of it.

Without ``--source`` it crawls the pocket web, which it builds and serves on loopback. With one it does the same for
your own folder of images, WARC files or list of URLs; the features are then scored on the pocket web's held-out tiles.
A second run continues the first.
"""

import argparse
import ctypes
import hashlib
import json
import re
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

from conf import entry_point, load
from curation import pocket_web
from curation.pocket_web.truth import Truth
from curation.report import planted
from curation.report.collect import collect
from curation.schema import Reason
from curation.store import Store
from spark_jobs import run as pipeline
from spark_jobs.config import CurationConfig
from spark_jobs.sources import list_files

_PAGES = (".warc", ".warc.gz", ".wat", ".wat.gz", ".wet.gz", ".arc", ".arc.gz", ".html", ".htm")
_PLANTED = {  # kinds of cases begin with
    "exact copies": ("exact_copy",),
    "copies saved again": ("reencoded",),
    "edited copies": ("edited_",),
    "chains of crops, links": ("chain_link",),
    "chains A-B, B-C: B goes": ("drift_middle",),
    "chains A-B, B-C: A and C stay": ("drift_end",),
    "evaluation leaks": ("evaluation_",),
}
_COPIES = (Reason.EXACT_DUPLICATE, Reason.PCA_HASH_DUPLICATE, Reason.NEAR_DUPLICATE, Reason.EVALUATION_COPY)
_LISTS = (".csv", ".parquet", ".jsonl", ".ndjson", ".txt")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m spark_jobs.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m spark_jobs.demo --source ~/photos recipe.dedup.threshold=0.75",
    )
    parser.add_argument("--source", type=Path, help="a folder of images or of WARC and HTML files, or a list of URLs")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted keys of the curation's recipe")
    parser.add_argument("--out", type=Path, help="folder for all of it (default: runs/demo or runs/<name>-<hash>)")
    arguments = parser.parse_intermixed_args()
    source: Path | None = arguments.source
    overrides = [*(_source_overrides(source) if source is not None else []), *arguments.overrides]
    out: Path = arguments.out or Path("runs") / (_name(source) if source is not None else "demo")
    started = time.monotonic()

    web = out / "web"
    _say("the pocket web: pages, pictures and what is planted among them", started)
    pocket_web.build(web)
    release = _curate(source, out, overrides, started)
    if source is None:
        print("\n" + "\n".join(planted_copies(Store(str(out / "store")), Truth.read(web / "truth.json"))))
    training, evaluation = out / "training", out / "evaluation"
    if any(release.glob("*.tar")):
        _say("training a small DINOv2 on the release", started)
        _python(
            "training.launch",
            "conf/training/demo.yaml",
            f"data.release={_value(release)}",
            f"output={_value(training)}",
        )
        _say("scoring its features on held-out tiles", started)
        places = [f"model={_value(training)}", f"data={_value(web / 'heldout')}", f"output={_value(evaluation)}"]
        _python("evaluation.run", "conf/evaluation/demo.yaml", *places)
    else:
        _say("the release holds no image, so there is nothing to train on", started)
    _say("the report", started)
    report = out / "report.html"
    parts = ["--release", str(release), "--training", str(training), "--evaluation", str(evaluation)]
    parts += ["--truth", str(web / "truth.json")] if source is None else []
    _python("curation.report", str(out / "store"), *parts, "-o", str(report))
    print(f"\ndone in {time.monotonic() - started:.0f} s")
    print(f"report:  {report}\nstore:   {out / 'store'}\nrelease: {release}")
    return 0


def planted_copies(store: Store, truth: Truth) -> list[str]:
    """Lines that say how many of the planted copies, chains and leaks were found, and what else was taken for one."""
    found = collect(store, None)
    comparison = planted.compare(truth.cases, found.drops, found.runs)
    lines = [f"{'planted':<34}{'cases':>7}{'as planted':>12}{'recall':>9}"]
    for title, prefix in _PLANTED.items():
        mine = [f for f in comparison.findings if f.case.kind.startswith(prefix)]
        right = sum(f.outcome == planted.AS_EXPECTED for f in mine)
        lines.append(f"{title:<34}{len(mine):>7,}{right:>12,}{right / max(len(mine), 1):>9.1%}")
    lines.append(f"{'dropped as':<34}{'images':>7}{'planted':>12}{'precision':>9}")
    for rate in comparison.rates:
        if rate.reason in _COPIES:
            share = rate.right / max(rate.dropped, 1)
            lines.append(f"{rate.reason:<34}{rate.dropped:>7,}{rate.right:>12,}{share:>9.1%}")
    return lines


def _curate(source: Path | None, out: Path, overrides: list[str], started: float) -> Path:
    recipe = "conf/curation/demo.yaml" if source is None else "conf/curation/own.yaml"
    web, release = out / "web", out / "release"
    ours = [f"store={_value(out / 'store')}", f"release={_value(release)}"]
    ours += [f"sources.collections.heldout={_value(web / 'heldout')}"]
    if source is None:
        ours += [f"sources.pages=[{_value(web / 'warc')}, {_value(web / 'html')}]"]
        ours += [f"sources.collections.queries={_value(web / 'queries')}"]
        _say("curation: crawling the pocket web, which is served on loopback", started)
    else:
        ours += ["recipe.dedup.against=[heldout]"]
        _say(f"curation of {source}", started)
    with pocket_web.serve(web) if source is None else nullcontext() as server:
        if server is not None:
            ours.append(f'runtime.resolve={{"*.test": "127.0.0.1:{server.port}"}}')
        pipeline.run(load(CurationConfig, recipe, [*ours, *overrides]))
    return release


def _source_overrides(source: Path) -> list[str]:
    """How the recipe names a user's source, by what it holds.

    Raises:
        ValueError: nothing is there, or nothing that can be read.
    """
    files = [file.name.lower() for file in list_files(str(source))]
    if source.is_file() and files[0].endswith(_LISTS):
        return [f"sources.urls=[{_value(source)}]"]
    num_pages = sum(name.endswith(_PAGES) for name in files)
    if 2 * num_pages >= len(files):
        return [f"sources.pages=[{_value(source)}]"]
    return [f"sources.images.own={_value(source)}"]


def _name(source: Path) -> str:
    """A folder name for a source's results: its own, and a hash of where it is, since two may be called the same."""
    place = str(source.resolve())
    return f"{re.sub(r'[^A-Za-z0-9_]+', '_', source.resolve().name)}-{hashlib.sha256(place.encode()).hexdigest()[:4]}"


def _value(path: Path) -> str:
    """A path as the value of an override, whatever characters it has."""
    return json.dumps(str(path), ensure_ascii=False)


def _say(what: str, started: float) -> None:
    print(f"\n[{time.monotonic() - started:5.0f} s] {what}", flush=True)


def _python(module: str, *arguments: str) -> None:
    """Run one of our commands; it dies with this process, so that no orphan goes on writing.

    Raises:
        OSError: it failed; its own message stands above.
    """
    libc = ctypes.CDLL(None)
    finished = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        check=False,
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: libc.prctl(1, signal.SIGKILL),  # PR_SET_PDEATHSIG
    )
    if finished.returncode:
        raise OSError(f"python -m {module} ended with exit code {finished.returncode}; its message is above")


if __name__ == "__main__":
    entry_point(main)
