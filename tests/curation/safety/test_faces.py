"""The default detector on photographs of people: nine in ten are found, and nobody after the blur."""

import cv2
import pytest

from conf import load
from curation.safety.base import FACE
from curation.safety.blur import until_none_found
from curation.safety.loading import load_detector
from spark_jobs.config import CurationConfig
from tests.benchmarks.detectors import as_released, found_in, pictures_with_faces

pytestmark = pytest.mark.realdata


def test_faces_are_found_and_not_found_again(shared_data):
    specs = load(CurationConfig, "conf/curation/own.yaml").recipe.screen.detectors
    [detector] = [load_detector(spec) for spec in specs.values() if FACE in spec.labels]
    pictures, _ = pictures_with_faces(shared_data)
    found = [found_in(detector, pixels) for pixels in pictures]
    share = sum(map(bool, found)) / len(pictures)
    print(f"{detector.name} {detector.version}: a face in {share:.1%} of {len(pictures)} pictures")
    assert share >= 0.9
    for pixels, boxes in zip(pictures, found, strict=True):
        blurred, _, _ = until_none_found(pixels, boxes, lambda picture: found_in(detector, as_released(picture)))
        assert found_in(detector, as_released(blurred)) == []
        smaller = cv2.resize(blurred, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        assert found_in(detector, smaller) == [], "a thumbnail shows nobody either"
