"""Take images down: out of the release, the tables, the index and the store's own tars, and keep them out.

Images are named by id, by a URL or path they were met at, by a domain, or by being near another image. What is found is
written down first; then every step can be repeated, so after a kill the same command goes on. The receipt comes last.
"""

import argparse
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from conf import entry_point, load
from curation.links.urls import normalise, normalise_host
from curation.takedown.receipt import (
    Plan,
    read_receipt,
    render,
    request_id,
    unfinished,
    write_plan,
    write_receipt,
)
from curation.takedown.resolve import Asked, resolve
from curation.takedown.tombstones import is_id, with_key
from spark_jobs.config import CurationConfig
from spark_jobs.removal import complete, planned, stones_of
from spark_jobs.stage import lock_store
from spark_jobs.tables import Tables


def take_down(
    config: CurationConfig, asked: Asked, dry_run: bool = False, without_release: bool = False
) -> dict[str, Any]:
    """Do what was asked, or the rest of what was asked before, and return the receipt.

    Args:
        config: names the store, and the release made from it.
        asked: what is to go; empty: only finish what was begun.
        dry_run: find it and change nothing; the receipt says what would go.
        without_release: the store's release is gone for good.

    Raises:
        ValueError: nothing is named, the store is not local, another process is writing it, or the store has
            published a release that is not where the configuration says.
    """
    store = Tables(config.store)
    if "://" in store.uri or not Path(store.uri, "tables").is_dir():
        raise ValueError(f"{store.uri}: no store is there on a local disk; name the recipe that made it")
    with lock_store(Path(store.uri, "lock")):
        begun = unfinished(store)
        if begun is not None and not dry_run:
            receipt = complete(store, begun)
            write_receipt(store, receipt)
        found = resolve(store, asked, config.recipe.dedup.threshold)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        if dry_run:
            plan = planned(store, config.release, "dry-run", now, asked, found)
            _refuse_to_miss(store, config, plan, without_release)
            return complete(store, plan, dry_run=True)
        known = with_key(store)
        base = request_id(known.key, asked)
        numbers = (f"{base}-{number}" if number else base for number in range(1_000_000))
        earlier = []
        for request in numbers:
            if (receipt_of := read_receipt(store, request)) is None:
                break
            earlier.append(receipt_of)
        # what is in no table any more may still be in a release that was elsewhere then
        gone = {image for receipt in earlier for image in receipt["images"]}
        plan = planned(
            store, config.release, request, now, asked, replace(found, images=tuple(sorted({*found.images, *gone})))
        )
        _refuse_to_miss(store, config, plan, without_release)
        is_known = all(stone in known.requests for stone, _ in stones_of(known, asked, found.images, found.urls))
        if earlier and is_known and not (plan.release and plan.release["shards"]):
            return earlier[-1]
        write_plan(store, plan)
        receipt = complete(store, plan)
        write_receipt(store, receipt)
        return receipt


def _refuse_to_miss(store: Tables, config: CurationConfig, plan: Plan, without_release: bool) -> None:
    if plan.release is None and not without_release and "publish" in store.last_runs():
        raise ValueError(
            f"release = {config.release}: no release is there, but {store.uri} has published one; give the release= "
            "that it was made with, or --without-release where it is gone for good"
        )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m spark_jobs.takedown",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m spark_jobs.takedown conf/curation/demo.yaml --url http://garden.test/photo.jpg",
    )
    parser.add_argument("recipe", help="a YAML file of conf/curation: it names the store and the release")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted keys of the recipe")
    parser.add_argument("--id", action="append", default=[], metavar="ID", help="an image, by its id")
    parser.add_argument("--url", action="append", default=[], help="what was met at a URL, or as <source>:<path>")
    parser.add_argument("--domain", action="append", default=[], help="what comes from a domain or one below it")
    parser.add_argument("--near", action="append", default=[], metavar="ID", help="an image and its near-duplicates")
    parser.add_argument("--threshold", type=float, help="similarity that --near goes by (the recipe's)")
    parser.add_argument("--reason", metavar="TEXT", help="for the receipt")
    parser.add_argument("--without-release", action="store_true", help="the store's release is gone for good")
    parser.add_argument("--dry-run", action="store_true", help="say what would go, and change nothing")
    arguments = parser.parse_intermixed_args()
    config = load(CurationConfig, arguments.recipe, arguments.overrides)
    print(render(take_down(config, _asked(arguments), arguments.dry_run, arguments.without_release)))
    return 0


def _asked(arguments: argparse.Namespace) -> Asked:
    for name in (*arguments.id, *arguments.near):
        if not is_id(name):
            raise ValueError(f"{name!r} is no image id; give all 32 hex digits (python -m curation.explain shows them)")
    urls = [normalise(url) if "://" in url else url for url in arguments.url]
    asked = Asked(
        ids=tuple(sorted(set(arguments.id))),
        urls=tuple(sorted(set(urls))),
        domains=tuple(sorted({normalise_host(domain) for domain in arguments.domain})),
        near=tuple(sorted(set(arguments.near))),
        threshold=arguments.threshold,
        reason=arguments.reason,
    )
    if not (asked.ids or asked.urls or asked.domains or asked.near):
        raise ValueError("nothing is named; give --id, --url, --domain or --near")
    return asked


if __name__ == "__main__":
    entry_point(main)
