"""``python -m curation.audit RELEASE [--store STORE] [--json FILE]``."""

import argparse
import os
from pathlib import Path

from tqdm import tqdm

from conf import entry_point
from curation.audit.external import external_checks
from curation.audit.internal import internal_checks, without_store
from curation.audit.report import Check, Status, conclude, missing, table
from curation.audit.safety import NAMES, look_again, safety_checks
from curation.release.blurring import Lookout, LookoutSpec
from curation.release.reader import ReleaseReader
from curation.store import Store

_CHECKS = """\
checks of the release by itself:
  manifest, index, merkle  digests, counts and rows are those that the manifest states
  images         every image is there, has its digest, and no other is
  funnel         what one stage kept is what the next one got
with its store:
  ledger         each run's decisions add up to its counts
  lineage        each run is in the store as the manifest tells it, on the runs before it
  decisions      every released image was kept by every stage, and dropped by none
  provenance     every released image was met somewhere, and the store says where
  rights         opt-outs and licences as they were seen; that none was seen is no permission
  contamination  no released image is one of the evaluation sets', or too similar to one
  takedown       no image that was taken down is released
of people and unsafe content:
  faces          none remains where a detector looked
  nsfw           none scores above the recipe's limit

"""


def main() -> int:
    """Audit a release: 0 passed, 1 a policy failed, 3 not enough evidence; a tool error raises (2)."""
    parser = argparse.ArgumentParser(
        prog="python -m curation.audit",
        description="Check a release; with its store, also where every image came from and why it was kept.\n"
        "Exit code 0: passed. 1: a policy failed. 2: the audit itself failed. 3: not enough evidence.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_CHECKS + "example: python -m curation.audit runs/demo/release --store runs/demo/store --waive nsfw",
    )
    parser.add_argument("release", metavar="RELEASE", help="folder or URI that holds manifest.json")
    parser.add_argument("--store", help="the store that the release was made from")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write audit.json there")
    parser.add_argument(
        "--waive", metavar="CHECK", action="append", default=[], help="accept that this check is not evaluated"
    )
    parser.add_argument(
        "--detect",
        action="store_true",
        help="look for faces again in every released image; loads the detectors' weights from where the release's "
        "recipe says, so only for a release that you trust",
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="shards read at a time (%(default)s)")
    options = parser.parse_args()

    release = ReleaseReader(options.release)
    checks = external_checks(release, options.workers)
    reached = {check.name for check in checks if check.status != Status.NOT_EVALUATED}
    named, readable = "index" in reached, "images" in reached
    if options.store is None:
        checks += without_store()
    elif readable:
        ids = release.index["image_id"].combine_chunks()
        checks += internal_checks(Store(options.store), release.manifest, ids)
    else:
        checks += [missing(check.name, "the release cannot be read") for check in without_store()]
    if readable:
        store = Store(options.store) if options.store else None
        seen = _look_again(release, checks) if options.detect else None
        checks += safety_checks(release.manifest, release.index, store, seen)
    else:
        checks += [missing(name, "the release cannot be read") for name in NAMES]
    digest = release.manifest.digest if named else None
    audit = conclude(digest, options.store is not None, checks, options.waive)
    if options.json is not None:
        options.json.write_text(audit.model_dump_json(indent=1) + "\n")
    print(table(audit))
    return audit.exit_code()


def _look_again(release: ReleaseReader, checks: list[Check]) -> list[str] | None:
    """The released images with a face, as the detectors of the screening see them now; None where nobody can look.

    Raises:
        ValueError: a detector is not the one on record, or is not there.
    """
    manifest = release.manifest
    sound = all(check.status == Status.PASS for check in checks if check.name in ("manifest", "images"))
    if not sound or not manifest.safety.that_find("face"):
        return None
    screen = manifest.recipe.get("screen")
    detectors = screen.get("detectors") if isinstance(screen, dict) else None
    records = {name: record.model_dump() for name, record in manifest.safety.detectors.items()}
    judge = Lookout(LookoutSpec.model_validate({"detectors": detectors, "records": records, "labels": ["face"]}))
    images = tqdm(release, desc="faces", unit=" images", leave=False, disable=None)  # None: silent but on a terminal
    return list(look_again(images, judge))


if __name__ == "__main__":
    entry_point(main)
