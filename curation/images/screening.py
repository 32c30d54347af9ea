"""The screening of one picture: encoded bytes in, facts and verdict out."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from curation.images import pca_hash
from curation.images.decode import DecodeError, Header, decode
from curation.images.pca_hash import PcaHash
from curation.images.quality import QualityRules, Refusal, entropy, judge
from curation.schema import Reason


@dataclass(frozen=True)
class Screened:
    """What is known of one image.

    Attributes:
        header: None where the bytes do not even have one.
        thumbnail: [pca_hash.SIDE, pca_hash.SIDE, 3] uint8; None where the picture does not decode.
        entropy: of the thumbnail, in bits.
        refusal: None where the picture is fit for use.
    """

    header: Header | None
    thumbnail: np.ndarray | None
    entropy: float | None
    refusal: Refusal | None


def screen(data: bytes, rules: QualityRules) -> Screened:
    """Decode a picture as far as screening needs it, measure it and judge it; every byte is parsed."""
    try:
        decoded = decode(data, rules.max_pixels, pca_hash.SIDE)
    except DecodeError as error:
        return Screened(error.header, None, None, _refusal(error, rules))
    thumbnail = np.asarray(decoded.image)
    bits = entropy(thumbnail)
    return Screened(decoded, thumbnail, bits, judge(decoded, bits, rules))


def screened_rows(images: Iterable[tuple[str, bytes]], rules: QualityRules, hasher: PcaHash) -> list[dict[str, Any]]:
    """Rows of ``schema.SCREENED`` for (image_id, encoded bytes), one each and in order."""
    rows, thumbnails, hashed = [], [], []
    for image_id, data in images:
        screened = screen(data, rules)
        row: dict[str, Any] = {"image_id": image_id, "entropy": screened.entropy}
        if (header := screened.header) is not None:
            row |= {"format": header.format, "width": header.width, "height": header.height}
            row["num_frames"] = header.num_frames
        if (refusal := screened.refusal) is not None:
            row |= {"reason": refusal.reason.value, "detail": refusal.detail}
            row |= {"score": refusal.score, "threshold": refusal.threshold}
        if screened.thumbnail is not None:
            thumbnails.append(screened.thumbnail)
            hashed.append(row)
        rows.append(row)
    if thumbnails:
        for row, pca in zip(hashed, hasher.hashes(np.stack(thumbnails)), strict=True):
            row["pca_hash"] = pca
    return rows


def _refusal(error: DecodeError, rules: QualityRules) -> Refusal:
    if error.reason == Reason.TOO_MANY_PIXELS and error.header is not None:
        pixels = error.header.width * error.header.height  # up to 2**64, which is no whole number of Arrow's
        return Refusal(error.reason, str(error), float(pixels), float(rules.max_pixels))
    return Refusal(error.reason, str(error))
