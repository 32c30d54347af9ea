"""What every detector offers, and how a configuration names one."""

from collections.abc import Collection, Iterable
from typing import Literal, NamedTuple, Protocol

import numpy as np
from pydantic import Field

from conf import Section

Box = tuple[int, int, int, int]  # x, y, width, height in pixels of the upright picture


class Detection(NamedTuple):
    """One finding in one picture.

    Attributes:
        label: "face", "nsfw", ...
        score: 0 to 1.
        box: None where the whole picture is meant.
    """

    label: str
    score: float
    box: Box | None


class Detector(Protocol):
    """Looks for something in pictures.

    Attributes:
        name: for reports.
        version: of the weights, or of the library that carries them.
        licence: of the weights, as an SPDX identifier where there is one.
        digest: SHA-256 (hex) of the weights and of every setting that decides the findings.
        labels: what it can find.
    """

    name: str
    version: str
    licence: str
    digest: str
    labels: tuple[str, ...]

    def detect(self, pixels: np.ndarray) -> list[Detection]:
        """Findings in [h, w, 3] uint8 RGB, upright; sorted, and the same for the same pixels."""
        ...


class DetectorSpec(Section):
    """One detector of a configuration."""

    adapter: Literal["opencv_haar"]
    threshold: float = Field(0.5, gt=0, le=1)  # lowest score that counts as a finding
    input_side: int = Field(480, gt=0)  # longest side in pixels of what the detector looks at


def load_detector(spec: DetectorSpec) -> Detector:
    """Make the detector that a specification names.

    Raises:
        ValueError: its weights are missing, are not the ones that were named, or do not fit.
    """
    from curation.safety.opencv_haar import OpencvHaar

    return OpencvHaar(spec)


def boxes_of(detections: Iterable[Detection], labels: Collection[str]) -> list[Box]:
    """The boxes of the findings that have one of the labels; a finding without a box has none to blur."""
    return [found.box for found in detections if found.label in labels and found.box is not None]
