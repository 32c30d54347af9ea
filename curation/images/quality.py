"""Which decoded pictures are fit for use: still, large enough, not too long, and not blank.

What is measured of a picture and what is decided on it are kept apart, so that other limits need no decoding.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from conf import Section
from curation.images.decode import Header
from curation.images.frames import ANIMATED_FORMATS
from curation.schema import Reason

_LUMA = np.array([77, 150, 29], np.uint16)  # 256ths, ITU-R BT.601


class QualityRules(Section):
    """The limits.

    Attributes:
        max_pixels: declared pixels above which a picture is refused before it is decoded.
        min_side: the least short side, in pixels.
        max_aspect: the greatest ratio of the long side to the short one.
        min_entropy: the least :func:`entropy`, in bits.
        animations: ``drop`` them, or screen and keep the ``first_frame``. A release holds the file as it came, so
            the frames behind the first would be let out without ever having been looked at: the default drops them.
            Pages of a TIFF count as frames. Later views of an MPO do not: nobody looks at them, and they are let out
            unless a face in the first has that one encoded anew, alone.
    """

    max_pixels: int = Field(100_000_000, gt=0)
    min_side: int = Field(gt=0)
    max_aspect: float = Field(5.0, ge=1)
    min_entropy: float = Field(1.0, ge=0, le=8)
    animations: Literal["drop", "first_frame"] = "drop"


@dataclass(frozen=True)
class Refusal:
    """Why a picture is refused, in the ledger's terms.

    Attributes:
        reason: from the closed set.
        detail: a sentence.
        score: what was measured, where it was a number.
        threshold: the limit it was held against.
    """

    reason: Reason
    detail: str
    score: float | None = None
    threshold: float | None = None


def entropy(thumbnail: np.ndarray) -> float:
    """Shannon entropy of the histogram of luma, in bits: 0 for a solid picture, at most 8.

    Args:
        thumbnail: [h, w, 3] uint8.
    """
    luma = (thumbnail @ _LUMA) >> 8
    counts = np.bincount(luma.ravel(), minlength=256)
    information = counts * np.log2(counts, out=np.zeros(256), where=counts > 0)
    bits = np.log2(luma.size) - information.sum() / luma.size
    return round(abs(float(bits)), 6)  # the last digits of a logarithm differ between machines


def judge(header: Header, bits: float, rules: QualityRules) -> Refusal | None:
    """The first rule that a decoded picture breaks; None where it is fit for use.

    Args:
        header: of the upright picture.
        bits: its entropy.
        rules: the limits.
    """
    short, long = sorted((header.width, header.height))
    size = f"{header.width} x {header.height}"
    if rules.animations == "drop" and header.num_frames > 1 and header.format in ANIMATED_FORMATS:
        parts = "pages" if header.format == "TIFF" else "frames"
        return Refusal(Reason.ANIMATED, f"{header.num_frames} {parts}", header.num_frames, 1)
    if short < rules.min_side:
        return Refusal(Reason.TOO_SMALL, f"{size}, the shorter side under {rules.min_side}", short, rules.min_side)
    if long > rules.max_aspect * short:
        return Refusal(
            Reason.BAD_ASPECT, f"{size}, more than {rules.max_aspect:g} to 1", long / short, rules.max_aspect
        )
    if bits < rules.min_entropy:
        return Refusal(Reason.BLANK, f"{bits:.3f} bits of entropy", bits, rules.min_entropy)
    return None
