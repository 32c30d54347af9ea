"""One image as it is released: its bytes, blurred where somebody was found, and what its metadata say."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from curation.images.ids import image_id
from curation.release.blurring import FaceRemainsError, Lookout, hide
from curation.release.canonical import canonical_json
from curation.release.shards import Sample
from curation.safety.base import Box
from curation.schema import Reason

_EXTENSIONS = {"JPEG": "jpg", "TIFF": "tif"}  # any other format's own name will do


def sample(
    row: Mapping[str, Any], read: Callable[[str, int, int], bytes], judge: Lookout
) -> tuple[Sample | None, dict[str, Any]]:
    """Read an image, hide who was found in it, and say what the index and the ledger are to know of it.

    Args:
        row: image_id, shard, offset_bytes, size_bytes, format, width, height; boxes ([x, y, width, height] each, or
            null); urls, pages, paths, rights; collection, source, cluster.
        read: as ``Store.shard_reader`` gives it.
        judge: the detectors that look at a blurred picture again.

    Returns:
        The sample, None where the image is left out; and columns of the index and the ledger.
    """
    known = {"image_id": row["image_id"]}
    try:
        data = read(row["shard"], row["offset_bytes"], row["size_bytes"])
    except OSError as error:
        return None, known | _unreadable(row, str(error.strerror))
    if image_id(data) != row["image_id"]:
        return None, known | _unreadable(row, "its bytes are no longer those that were indexed")
    known |= {"source": row["collection"], "cluster": row["cluster"], "blurred": 0}
    format_, boxes = row["format"], [(x, y, width, height) for x, y, width, height in row["boxes"] or []]
    if boxes:
        try:
            data, format_, boxes = hide(data, boxes, judge)
        except FaceRemainsError as error:
            remains = {"reason": Reason.FACE_REMAINS.value, "evidence": _json(error.evidence), "score": error.score}
            return None, known | remains | {"model": judge.digest}
        known |= {"blurred": len(boxes), "evidence": _json({"blurred": boxes}), "model": judge.digest}
    extension = _EXTENSIONS.get(format_, format_.lower())
    return (row["image_id"], extension, data, _metadata(row, boxes)), known


def _unreadable(row: Mapping[str, Any], why: str) -> dict[str, Any]:
    return {"reason": Reason.UNREADABLE.value, "evidence": f"{row['shard']}: {why}"}


def _metadata(row: Mapping[str, Any], blurred: Sequence[Box]) -> dict[str, Any]:
    own = ("image_id", "urls", "pages", "paths", "rights", "cluster", "width", "height")
    known = {key: row[key] for key in own}
    return {**known, "set": row["collection"], "method": row["source"], "blurred": blurred}


def _json(value: Any) -> str:
    return canonical_json(value).decode()
