"""Makes people unrecognisable in a picture that is released, and looks again at what will be released.

DINOv2 paper, section 3: identifiable faces are blurred. Here the detectors that screened the images judge the result.
"""

import functools
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pydantic import model_validator

from conf import Section
from curation.images.decode import decode
from curation.release.safety import DetectorRecord
from curation.safety.base import Box, Detection, Detector, DetectorSpec
from curation.safety.blur import StillFoundError, reencoded, until_none_found
from curation.safety.loading import load_detector


class Hidden(NamedTuple):
    """A picture in which nobody is found any more."""

    data: bytes  # encoded anew: upright, first frame, without EXIF or any other metadata
    format: str
    boxes: list[Box]  # all that was blurred


class FaceRemainsError(ValueError):
    """Somebody is found however often the picture is blurred; ``found`` is what was found last."""

    def __init__(self, message: str, found: Sequence[Detection]) -> None:
        super().__init__(message)
        self.found = list(found)

    @property
    def score(self) -> float:
        """The highest score of what remains."""
        return max(detection.score for detection in self.found)

    @property
    def evidence(self) -> dict[str, list[list[float]]]:
        """Label to [x, y, width, height, score] of what remains."""
        labels = sorted({detection.label for detection in self.found})
        return {label: [[*d.box, d.score] for d in self.found if d.label == label and d.box] for label in labels}


class LookoutSpec(Section):
    """Which detectors of a screening run are to look again, and for what."""

    detectors: dict[str, DetectorSpec]  # by name, as in the recipe of that run
    records: dict[str, DetectorRecord]  # what that run put on record of them
    labels: list[str]  # a detector that finds none of these is not loaded

    @model_validator(mode="after")
    def _every_record_has_a_detector(self) -> "LookoutSpec":
        if unknown := sorted(set(self.records) - set(self.detectors)):
            raise ValueError(f"the detector {unknown[0]!r} is on record, but not in the recipe of the screening")
        return self


class Lookout:
    """The detectors of a screening run, loaded again.

    Raises:
        ValueError: a detector is not the one on record any more, or its weights are not there.
    """

    def __init__(self, spec: LookoutSpec) -> None:
        self._labels = frozenset(spec.labels)
        self._detectors: list[Detector] = []
        for name, record in sorted(spec.records.items()):
            if self._labels.isdisjoint(record.labels):
                continue
            detector = load_detector(spec.detectors[name])
            if detector.digest != record.digest:
                raise ValueError(
                    f"the detector {name!r} is {detector.name} {detector.version} with digest {detector.digest}, but "
                    f"{record.name} {record.version} with digest {record.digest} screened the images; put that one "
                    "back, or screen again"
                )
            self._detectors.append(detector)

    @property
    def digest(self) -> str:
        """The digests of the detectors, joined by blanks."""
        return " ".join(detector.digest for detector in self._detectors)

    def __bool__(self) -> bool:
        return bool(self._detectors)

    def look(self, pixels: np.ndarray) -> list[Detection]:
        """What is found of the labels in a picture, [h, w, 3] uint8."""
        found = (detection for detector in self._detectors for detection in detector.detect(pixels))
        return [detection for detection in found if detection.label in self._labels]


def lookout(spec: LookoutSpec) -> Lookout:
    """The lookout, loaded once a process.

    Raises:
        ValueError: as ``Lookout``.
    """
    return _loaded(spec.model_dump_json())


@functools.lru_cache(maxsize=1)
def _loaded(spec: str) -> Lookout:
    return Lookout(LookoutSpec.model_validate_json(spec))


def hide(data: bytes, boxes: Sequence[Box], judge: Lookout) -> Hidden:
    """Blur the boxes in an encoded picture, and further what is still found in the picture as it would be released.

    Args:
        data: the encoded bytes; of an animation only the first frame is kept, of transparency what shows on white.
        boxes: what the screening found.
        judge: looks at every round's result, decoded from the bytes that would be released.

    Raises:
        FaceRemainsError: something is found after the last round.
        DecodeError: the bytes give no picture.
    """
    original = decode(data, max_pixels=sys.maxsize)  # its size was the recipe's to judge
    encoded: bytes = b""
    found: list[Detection] = []

    def find(pixels: np.ndarray) -> list[Box]:
        nonlocal encoded, found
        encoded = reencoded(pixels, original.format)
        found = judge.look(np.asarray(decode(encoded, max_pixels=sys.maxsize).image))
        return [detection.box for detection in found if detection.box is not None]

    try:
        _, hidden, _ = until_none_found(np.asarray(original.image), boxes, find)
    except StillFoundError as error:
        raise FaceRemainsError(str(error), found) from error
    return Hidden(encoded, original.format, hidden)
