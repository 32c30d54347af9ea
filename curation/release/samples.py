"""One image as it is released: its bytes, blurred where somebody was found, and what its metadata say."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from curation.release.blurring import FaceRemainsError, Lookout, hide
from curation.release.canonical import canonical_json
from curation.release.shards import Sample
from curation.safety.base import Box
from curation.schema import Reason

FORM = 1  # raised when the same image and facts give other bytes, so that no shard of before is taken for one of now
_EXTENSIONS = {"JPEG": "jpg", "TIFF": "tif"}  # any other format's own name will do


def sample(
    row: Mapping[str, Any], read: Callable[[str, int, int], bytes], judge: Lookout
) -> tuple[Sample | None, dict[str, Any]]:
    """Read an image, hide who was found in it, and say what the index and the ledger are to know of it.

    Args:
        row: image_id, shard, offset_bytes, size_bytes, format, width, height; boxes ([x, y, width, height] each, or
            null); urls, pages, paths, rights; collection, source, cluster.
        read: as ``Store.shard_reader`` gives it, or ahead.
        judge: the detectors that look at a blurred picture again.

    Returns:
        The sample, None where the image is left out; and columns of the index and the ledger.
    """
    known = {"image_id": row["image_id"]}
    try:
        data = read(row["shard"], row["offset_bytes"], row["size_bytes"])
    except OSError as error:
        return None, known | _unreadable(row, str(error.strerror))
    digest = hashlib.sha256(data).hexdigest()
    if digest[:32] != row["image_id"]:
        return None, known | _unreadable(row, "its bytes are no longer those that were indexed")
    format_, boxes = row["format"], [(x, y, width, height) for x, y, width, height in row["boxes"] or []]
    sha256: str | None = digest
    if boxes:
        try:
            data, format_, boxes = hide(data, boxes, judge)
            sha256 = None
        except FaceRemainsError as error:
            remains = {"reason": Reason.FACE_REMAINS.value, "evidence": _json(error.evidence), "score": error.score}
            return None, known | remains | {"model": judge.digest}
    extension = _EXTENSIONS.get(format_, format_.lower())
    return Sample(row["image_id"], extension, data, _metadata(row, boxes), sha256), described(row, boxes, judge)


def described(row: Mapping[str, Any], blurred: Sequence[Sequence[int]], judge: Lookout) -> dict[str, Any]:
    """What the index and the ledger are to know of an image that is released with these regions blurred."""
    known = {"image_id": row["image_id"], "source": row["collection"], "cluster": row["cluster"]}
    told = {"evidence": _json({"blurred": blurred}), "model": judge.digest} if blurred else {}
    return known | {"blurred": len(blurred)} | told


def _unreadable(row: Mapping[str, Any], why: str) -> dict[str, Any]:
    return {"reason": Reason.UNREADABLE.value, "evidence": f"{row['shard']}: {why}"}


def fingerprint(rows: Sequence[Mapping[str, Any]], judge: str | None) -> str:
    """SHA-256 over all that decides the bytes of a shard with the samples of these rows, in order.

    Args:
        rows: as :func:`sample` takes them; where the bytes lie does not matter.
        judge: digest of the detectors that look at a blurred picture again.
    """
    deciding = [(_metadata(row, row["boxes"] or []), row["format"]) for row in rows]
    return hashlib.sha256(canonical_json([FORM, judge, deciding])).hexdigest()


def _metadata(row: Mapping[str, Any], blurred: Sequence[Box]) -> dict[str, Any]:
    # the cluster is in the index alone: clusters are made anew with every snapshot, and would change every shard
    own = ("image_id", "urls", "pages", "paths", "rights", "width", "height")
    known = {key: row[key] for key in own}
    return {**known, "set": row["collection"], "method": row["source"], "blurred": blurred}


def _json(value: Any) -> str:
    return canonical_json(value).decode()
