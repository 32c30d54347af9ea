"""The whole curation pipeline, stage after stage.

Every stage is idempotent: what has run with the same recipe on the same inputs is not run again, and a pipeline that
was killed continues where it stopped.
"""

import argparse
import sys

from conf import entry_point, load
from curation import schema
from curation.schema import Reason
from spark_jobs import cluster, dedup, download, embed, extract_links, index, publish, retrieve, screen
from spark_jobs.config import CurationConfig, Sources
from spark_jobs.stage import Report, Stage, execute, opened
from spark_jobs.tables import Tables

STAGES: tuple[Stage, ...] = tuple(
    module.STAGE for module in (extract_links, download, index, screen, embed, dedup, cluster, retrieve, publish)
)
assert tuple(stage.name for stage in STAGES) == schema.STAGES


def run(config: CurationConfig, until: str | None = None) -> None:
    """Run all stages in order, a line each; ``until`` names the last one to run.

    Raises:
        ValueError: a source is missing or empty, which is found before anything is run; or no picture came from any.
    """
    plan(Tables(config.store), config, until)
    with opened(config) as (store, spark):
        print(Report.HEADER, flush=True)
        for stage in STAGES:
            report = execute(stage, store, config, spark)
            print(report, flush=True)
            if stage is index.STAGE and not report.kept and Reason.TAKEN_DOWN not in report.dropped:
                raise ValueError(
                    f"{', '.join(_named(config.sources))}: no picture came from there; the lines above say why, and "
                    f"python -m curation.explain {config.store} PATH_OR_URL of a single one. Name other sources"
                )
            if stage.name == until:
                break


def _named(sources: Sources) -> list[str]:
    return [*sources.images.values(), *sources.pages, *sources.urls]


def plan(store: Tables, config: CurationConfig, until: str | None = None) -> list[tuple[str, str | None]]:
    """Each stage with the reason why it would run now, or None where it is done. Starts neither Spark nor Java.

    Raises:
        ValueError: no source is named, or one is missing or empty, or the release would overwrite something else.
    """
    sources = config.sources
    if not (sources.pages or sources.urls or sources.images):
        raise ValueError("no sources; pass sources.images.NAME=FOLDER, sources.pages=[FOLDER] or sources.urls=[FILE]")
    upstream: str | None = None
    reasons: list[tuple[str, str | None]] = []
    for stage in STAGES:
        key, reason = stage.key(store, config, upstream)
        reasons.append((stage.name, reason))
        upstream = key.run_id
        if stage.name == until:
            break
    return reasons


def status(store: Tables) -> list[str]:
    """A line for every stage that has run in this store."""
    current = store.runs()
    lines = []
    for name, run in store.last_runs().items():
        note = "" if name in current else "; a stage before it has run again since"
        lines.append(f"{Report(name, run.rows_in, run.kept, run.dropped, None)}  [run {run.run_id}{note}]")
    return lines


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m spark_jobs.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m spark_jobs.run conf/curation/demo.yaml recipe.dedup.threshold=0.7 --until dedup",
    )
    names = [stage.name for stage in STAGES]
    parser.add_argument("recipe", help="a YAML file of conf/curation")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted keys of the recipe")
    parser.add_argument("--until", choices=names, metavar="STAGE", help=f"the last stage to run: {', '.join(names)}")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--plan", action="store_true", help="say what would run and why, and run nothing")
    what.add_argument("--status", action="store_true", help="say what has run, and run nothing")
    arguments = parser.parse_intermixed_args(sys.argv[1:])
    config = load(CurationConfig, arguments.recipe, arguments.overrides)
    if arguments.status:
        print(Report.HEADER)
        print("\n".join(status(Tables(config.store))) or f"nothing has run in {config.store}")
    elif arguments.plan:
        for name, reason in plan(Tables(config.store), config, arguments.until):
            print(f"{name:<14}{'done' if reason is None else 'would run: ' + reason}")
    else:
        run(config, arguments.until)
        print(f"\nto look at it: python -m curation.report {config.store} --release {config.release} -o report.html")
        print(f"why an image is in, or is not: python -m curation.explain {config.store} ID_OR_URL_OR_PATH")
    return 0


if __name__ == "__main__":
    entry_point(main)
