"""The checks for people and unsafe content. Where no detector looked nothing is known, and that is never a pass."""

import sys
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.audit.internal import moved_on
from curation.audit.report import Check, judged, missing
from curation.images.decode import decode
from curation.release.blurring import Lookout
from curation.release.manifest import Manifest
from curation.release.reader import ReleasedImage
from curation.release.safety import Safety
from curation.store import Store

NAMES = ("faces", "nsfw")
_ASK = "pass --store to compare with what was found there"


def safety_checks(manifest: Manifest, index: pa.Table, store: Store | None, seen: list[str] | None) -> list[Check]:
    """Whether every face that was found is blurred, and no image has too high an NSFW score.

    Args:
        manifest: of the release.
        index: its index.
        store: the store it was made from, if there is one to ask.
        seen: the released images in which a face was found on looking again; None if nobody looked again.
    """
    return [_faces(manifest, index, store, seen), _nsfw(manifest, index, store)]


def look_again(images: Iterable[ReleasedImage], judge: Lookout) -> Iterator[str]:
    """Look for faces in every released image and yield each that has one.

    Args:
        images: of a release whose images are sound.
        judge: the detectors.
    """
    for image in images:
        if found := judge.look(np.asarray(decode(image.data, sys.maxsize).image)):
            yield f"{image.image_id}: a face is found, {found[0].label} {found[0].score:.3g} at {found[0].box}"


def _faces(manifest: Manifest, index: pa.Table, store: Store | None, seen: list[str] | None) -> Check:
    safety = manifest.safety
    looked = safety.that_find("face")
    if not looked:
        return missing("faces", "no detector of faces looked at these images")
    who = " and ".join(f"{detector.name} {detector.version}" for detector in looked.values())
    unknown = _unknown(store, manifest)
    regions = [count for count in index["blurred"].to_pylist() if count]
    measured = {"images": len(index), "blurred_images": len(regions), "blurred_regions": sum(regions)}
    offences, evidence = list(seen or []), []
    if store is not None and unknown is None:
        offences += _other_detectors(store, manifest)
        faces = _detections(store, ["image_id"], (pc.field("label") == "face") & pc.field("x").is_valid())
        with_faces = index.filter(pc.is_in(index["image_id"], faces["image_id"].combine_chunks()))
        plain = with_faces.filter(pc.field("blurred") == 0)["image_id"].to_pylist()
        offences += [f"{image_id}: has a face and is not blurred" for image_id in plain]
        measured["images_with_faces"] = len(with_faces)
        evidence.append(f"{who} found faces in {len(with_faces)} released images; {len(plain)} of them are not blurred")
    if seen is not None:
        measured["images_with_faces_now"] = len(seen)
        evidence.append(f"looking again, {who} found faces in {len(seen)} of {len(index)} images")
    if not evidence:
        return missing("faces", f"the manifest says that {who} looked and {len(regions)} images are blurred; {unknown}")
    return judged("faces", "; ".join(evidence), offences, measured)


def _nsfw(manifest: Manifest, index: pa.Table, store: Store | None) -> Check:
    looked, stated = manifest.safety.that_find("nsfw"), manifest.safety.nsfw
    if not looked or stated is None:
        return missing("nsfw", "no detector of unsafe content looked at these images")
    if stated.threshold is None:
        return missing("nsfw", "a detector gave scores, but the recipe has no threshold (screen.nsfw_threshold)")
    unknown = _unknown(store, manifest)
    if unknown is not None or store is None:
        return missing("nsfw", f"the manifest says that the highest score is {stated.highest}; {unknown}")
    over = (pc.field("label") == "nsfw") & (pc.field("score") >= stated.threshold)
    rows = _detections(store, ["image_id", "score"], over)
    rows = rows.filter(pc.is_in(rows["image_id"], index["image_id"].combine_chunks()))
    offences = [f"{row['image_id']}: score {row['score']:.3g}" for row in rows.to_pylist()]
    who = " and ".join(f"{detector.name} {detector.version}" for detector in looked.values())
    summary = f"{len(offences)} released images have a score of {stated.threshold:g} or more by {who}"
    return judged("nsfw", summary, [*offences, *_other_detectors(store, manifest)], {"images": len(index)})


def _detections(store: Store, columns: list[str], condition: pc.Expression) -> pa.Table:
    """Of the pool's images, and of those of the sets that are taken as they are."""
    return pa.concat_tables([store.table(name, columns, condition) for name in ("detections", "own_detections")])


def _unknown(store: Store | None, manifest: Manifest) -> str | None:
    """Why what the detectors found is not known; None where it is."""
    return _ASK if store is None else moved_on(store, manifest, "screen")


def _other_detectors(store: Store, manifest: Manifest) -> Iterator[str]:
    """An offence where the manifest names other detectors than the run that screened the images."""
    recorded = Safety.model_validate({"detectors": store.last_runs()["screen"].metrics.get("detectors", {})})
    if recorded.detectors != manifest.safety.detectors:
        yield "the manifest names other detectors than the store's run of screen"
