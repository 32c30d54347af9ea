"""The checks that need nothing but the release."""

from collections.abc import Iterable

from curation.audit.internal import takes_sets_as_they_are
from curation.audit.report import Check, judged, missing
from curation.release.manifest import Manifest
from curation.release.reader import ReleaseReader
from curation.release.verify import Problem, verify

_SUMMARIES = {
    "manifest": "manifest.json is unedited, agrees with itself, and the files it names are as it says",
    "index": "index.parquet has every image once, in release order, and as many as the manifest says",
    "merkle": "the Merkle root over the index is the manifest's",
    "images": "every byte of every shard is accounted for; every image decodes and, unless blurred, hashes to its id",
}
_CHECK_OF = {"manifest": "manifest", "file": "manifest", "index": "index", "merkle": "merkle"}


def external_checks(release: ReleaseReader, workers: int) -> list[Check]:
    """Digests, counts, ids and images of the release, and the arithmetic of its funnel.

    Raises:
        ValueError: there is no such folder.
    """
    problems: dict[str, list[Problem]] = {name: [] for name in _SUMMARIES}
    for problem in verify(release.uri, workers):
        problems[_CHECK_OF.get(problem.check, "images")].append(problem)
    evaluated = _evaluated(release)
    checks = [
        judged(name, summary, [str(problem) for problem in problems[name]])
        if name in evaluated
        else missing(name, f"{evaluated[-1]} cannot be read")
        for name, summary in _SUMMARIES.items()
    ]
    if evaluated == ["manifest"]:
        return [*checks, missing("funnel", "manifest cannot be read")]
    return [*checks, _funnel(release.manifest)]


def _evaluated(release: ReleaseReader) -> list[str]:
    """The checks that ``verify`` came to: it stops at a manifest or an index that the reader refuses."""
    names = list(_SUMMARIES)
    try:
        _ = release.manifest
    except ValueError:
        return names[:1]
    try:
        _ = release.index
    except (OSError, ValueError):
        return names[:2]
    return names


def _funnel(manifest: Manifest) -> Check:
    stages, runs = manifest.stages, manifest.runs
    summary = f"rows in = kept + dropped in {len(stages)} stages, and each takes in what the one before kept"
    if not runs:
        return missing("funnel", "the manifest names no run")
    return judged("funnel", summary, list(_leaks(manifest)), {s: runs[s].kept for s in stages if s in runs})


def _leaks(manifest: Manifest) -> Iterable[str]:
    runs = manifest.runs
    if sorted(manifest.stages) != sorted(runs):
        yield f"stages {manifest.stages} but runs of {sorted(runs)}"
        return
    for stage, run in runs.items():
        if run.rows_in != run.kept + sum(run.dropped.values()):
            yield f"{stage}: {run.rows_in} rows in, {run.kept} kept + {sum(run.dropped.values())} dropped"
    for before, stage in zip(manifest.stages, manifest.stages[1:], strict=False):
        taken, kept = runs[stage].rows_in, runs[before].kept
        # beside the downloads index takes in the user's own files, and retrieve the sets that are taken as they are
        imports = stage == "index" or (stage == "retrieve" and takes_sets_as_they_are(manifest))
        if taken < kept or (taken > kept and not imports):
            yield f"{before} kept {kept}, but {stage} took in {taken}"
    last = manifest.stages[-1]
    if runs[last].kept != manifest.images:
        yield f"{last} kept {runs[last].kept}, but the release has {manifest.images} images"
