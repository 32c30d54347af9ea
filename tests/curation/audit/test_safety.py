"""A release of which two images are blurred, and stores that found faces, or nothing, in others."""

import io
import json

import pytest
import skimage.data
from PIL import Image

from curation.audit.__main__ import main
from curation.audit.report import Status
from curation.audit.safety import NAMES, look_again, safety_checks
from curation.release import blurring
from curation.release.blurring import Lookout, LookoutSpec
from curation.release.reader import ReleaseReader
from curation.release.safety import DetectorRecord, Nsfw, Safety
from curation.safety.base import Detection, DetectorSpec
from curation.safety.findings import record
from curation.safety.loading import load_detector
from curation.store import Store
from tests.curation.audit.history import IDS, RECIPE, SMALL, face, tables, write_release, write_store
from tests.curation.release.build import FACES, PICTURES, REGIONS, SAFETY, identifier

UNBLURRED = next(i for i in IDS if i not in REGIONS)
SCORER = DetectorRecord(name="head", version="2", licence="MIT", digest="e" * 64, labels=["nsfw"])


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return ReleaseReader(str(write_release(tmp_path_factory.mktemp("safety") / "release")))


def checks(release, folder=None, content=None, seen=None):
    store = Store(str(write_store(folder, content))) if folder else None
    found = safety_checks(release.manifest, release.index, store, seen)
    assert [check.name for check in found] == list(NAMES)
    return found


def screened(content, **metrics):
    """The same store with other metrics of its screening."""
    runs = [row | ({"metrics": json.dumps(metrics)} if row["stage"] == "screen" else {}) for row in content["runs"]]
    return content | {"runs": runs}


def test_faces_that_are_all_blurred_pass(release, tmp_path):
    faces, nsfw = checks(release, tmp_path, tables())
    assert (faces.status, nsfw.status) == (Status.PASS, Status.NOT_EVALUATED)
    assert (faces.measured["images_with_faces"], faces.measured["blurred_regions"]) == (2, 3)
    assert "faces 1" in faces.summary, "the detector is named with its version"


def test_a_face_that_was_found_and_not_blurred_fails(release, tmp_path):
    content = tables()
    content["detections"] += [face(UNBLURRED, [1, 1, 3, 3]), face(SMALL, [1, 1, 3, 3])]
    faces, _ = checks(release, tmp_path, content)
    assert faces.status == Status.FAIL
    assert faces.findings == [f"{UNBLURRED}: has a face and is not blurred"]


def test_where_no_detector_looked_nothing_passes_nor_fails(tmp_path):
    release = ReleaseReader(str(write_release(tmp_path / "r", safety=SAFETY.model_copy(update={"detectors": {}}))))
    assert [check.status for check in checks(release)] == [Status.NOT_EVALUATED] * 2
    content = screened(tables())
    assert [check.status for check in checks(release, tmp_path / "s", content)] == [Status.NOT_EVALUATED] * 2


def test_without_the_store_the_manifest_alone_is_no_evidence(release):
    faces, _ = checks(release)
    assert faces.status == Status.NOT_EVALUATED
    assert "2 images are blurred" in faces.summary
    assert "--store" in faces.summary


def test_a_store_that_has_moved_on_is_no_evidence(release, tmp_path):
    content = tables()
    screen = next(row for row in content["runs"] if row["stage"] == "screen")
    content["runs"].append(screen | {"sequence": 99, "run_id": "newer"})
    faces, _ = checks(release, tmp_path, content)
    assert faces.status == Status.NOT_EVALUATED
    assert "moved on" in faces.summary


@pytest.mark.parametrize("change", [{"version": "0"}, {"digest": "0" * 64}, {"licence": "AGPL-3.0"}])
def test_a_manifest_that_names_another_detector_than_the_store_fails(release, tmp_path, change):
    content = screened(tables(), detectors={"faces": FACES.model_dump() | change})
    faces, _ = checks(release, tmp_path, content)
    assert faces.status == Status.FAIL
    assert "other detectors" in faces.findings[0]


@pytest.mark.parametrize(("seen", "status"), [([], Status.PASS), ([f"{UNBLURRED}: a face"], Status.FAIL)])
def test_looking_again_is_evidence_of_its_own(release, seen, status):
    faces, _ = checks(release, seen=seen)
    assert faces.status == status
    assert faces.findings == seen


@pytest.mark.parametrize(
    ("threshold", "scores", "status"),
    [
        (0.75, {UNBLURRED: 0.74, SMALL: 0.99}, Status.PASS),
        (0.75, {UNBLURRED: 0.75}, Status.FAIL),
        (None, {UNBLURRED: 0.7}, Status.NOT_EVALUATED),
    ],
)
def test_nsfw_scores_against_the_threshold(tmp_path, threshold, scores, status):
    detectors = {"faces": FACES, "head": SCORER}
    safety = Safety(detectors=detectors, blurred=SAFETY.blurred, nsfw=Nsfw(threshold=threshold, highest=0.69))
    release = ReleaseReader(str(write_release(tmp_path / "r", safety=safety)))
    assert checks(release)[1].status == Status.NOT_EVALUATED, "the manifest's word alone"
    content = screened(tables(), detectors={name: record.model_dump() for name, record in detectors.items()})
    whole = {"detector": "head", "label": "nsfw", "model": "e" * 64}
    content["detections"] += [{"image_id": i, "score": score, **whole} for i, score in scores.items()]
    _, nsfw = checks(release, tmp_path / "s", content)
    assert nsfw.status == status
    assert nsfw.findings == ([f"{UNBLURRED}: score 0.75"] if status == Status.FAIL else [])


class OfOneImage:
    """Finds a face in one picture: that with these pixels."""

    name, version, licence, digest, labels = "one", "1", "none", "f" * 64, ("face",)

    def __init__(self, data):
        self.pixels = Image.open(io.BytesIO(data)).tobytes()

    def detect(self, pixels):
        return [Detection("face", 0.5, (1, 2, 3, 4))] if pixels.tobytes() == self.pixels else []


def test_looking_again_looks_at_every_image_as_it_was_released(release, monkeypatch):
    monkeypatch.setattr(blurring, "load_detector", lambda _: OfOneImage(PICTURES[IDS[5]]))
    spec = LookoutSpec(detectors={"faces": {"adapter": "opencv_haar"}}, records={"faces": FACES}, labels=["face"])
    found = list(look_again(release, Lookout(spec)))
    assert [finding.partition(":")[0] for finding in found] == [IDS[5]]


def an_unblurred_face():
    """The astronaut of scikit-image, small, as a PNG of her own."""
    buffer = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()[:256, 96:352]).save(buffer, "PNG")
    return {identifier(buffer.getvalue()): buffer.getvalue()}


@pytest.mark.parametrize(
    ("more", "changed", "code", "word"),
    [
        ({}, {}, 3, "found faces in 0 of 24 images"),
        (an_unblurred_face, {}, 1, "a face is found"),
        ({}, {"digest": "0" * 64}, None, f"digest {'0' * 64} screened the images"),
    ],
)
def test_the_command_looks_again(tmp_path, monkeypatch, capsys, more, changed, code, word):
    detector = load_detector(DetectorSpec(adapter="opencv_haar"))
    safety = Safety(detectors={"opencv": record(detector) | changed}, blurred=SAFETY.blurred)
    recipe = RECIPE | {"screen": {"detectors": {"opencv": {"adapter": "opencv_haar"}}}}
    pictures = PICTURES | (more() if callable(more) else more)
    folder = write_release(tmp_path / "r", pictures=pictures, safety=safety, recipe=recipe, runs={})
    monkeypatch.setattr("sys.argv", ["audit", str(folder), "--detect", "--workers", "1"])
    if code is None:
        with pytest.raises(ValueError, match=word):
            main()
    else:
        assert main() == code
        (line,) = [line for line in capsys.readouterr().out.splitlines() if word in line]
        assert line.startswith("PASS" if not more else " ")
