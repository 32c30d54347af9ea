import hashlib
import importlib.util

import numpy as np
import pytest
import safetensors.numpy
import torch
from PIL import Image

from conf import ConfigError, digest, load
from curation.descriptors.base import EmbedderSpec
from curation.descriptors.loading import load_embedder
from curation.safety.base import BOXED, Detection, DetectorSpec, boxes_of
from curation.safety.loading import load_detector
from spark_jobs.config import CurationConfig
from tests.curation.safety.onnx_files import colour_classifier

RED, BLUE = (np.full((40, 60, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255)))
PLAIN = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
NSFW_IS_RED = np.array([[0, 0, 0], [4, 0, -4]]), np.array([0, 0])


def file(path, data):
    path.write_bytes(data)
    return {"weights": str(path), "sha256": hashlib.sha256(data).hexdigest(), "licence": "MIT"}


@pytest.fixture
def classifier(tmp_path):
    """Specification of a classifier for which red is unsafe."""

    def make(**keys):
        data = colour_classifier(*NSFW_IS_RED, size=8)
        return DetectorSpec(adapter="onnx_classifier", **file(tmp_path / "c.onnx", data), size=8, **PLAIN | keys)

    return make


@pytest.fixture
def astronaut():
    return pytest.importorskip("skimage.data").astronaut()


# OpenCV's cascade


def test_the_cascade_needs_no_file_and_is_on_record():
    detector = load_detector(DetectorSpec(adapter="opencv_haar"))
    assert (detector.name, detector.labels) == ("opencv_haar", ("face",))
    assert detector.version
    assert detector.licence
    assert len(bytes.fromhex(detector.digest)) == 32


def test_boxes_are_in_pixels_of_the_picture_that_was_given(astronaut):
    """The face lies at (180, 70) to (270, 165); the same place is found in a picture three times as large."""
    detector = load_detector(DetectorSpec(adapter="opencv_haar"))
    large = astronaut.repeat(3, axis=0).repeat(3, axis=1)
    for picture, scale in ((astronaut, 1), (large, 3)):
        centres = [
            ((x + w / 2) / scale, (y + h / 2) / scale) for x, y, w, h in boxes_of(detector.detect(picture), ["face"])
        ]
        assert any(abs(x - 225) < 20 and abs(y - 117) < 20 for x, y in centres)


def test_findings_are_sorted_repeatable_and_inside(astronaut):
    detector = load_detector(DetectorSpec(adapter="opencv_haar", threshold=0.2))
    crowd = np.tile(astronaut[:240, 120:360], (2, 3, 1))
    found = detector.detect(crowd)
    assert len(found) >= 6
    assert found == sorted(found) == detector.detect(crowd.copy())
    for x, y, w, h in boxes_of(found, ["face"]):
        assert x >= 0
        assert y >= 0
        assert x + w <= crowd.shape[1]
        assert y + h <= crowd.shape[0]


def test_a_higher_threshold_finds_part_of_what_a_lower_one_finds(astronaut):
    crowd = np.tile(astronaut[:240, 120:360], (2, 3, 1))
    found = {}
    for threshold in (0.1, 0.5, 0.98):
        detector = load_detector(DetectorSpec(adapter="opencv_haar", threshold=threshold))
        found[threshold] = detector.detect(crowd)
        assert all(threshold <= score < 1 for _, score, _ in found[threshold])
    assert len(found[0.1]) >= len(found[0.5]) >= 6
    assert found[0.98] == [], "nobody is hit 300 times"


@pytest.mark.parametrize("shape", [(1, 1), (3, 900), (900, 2), (24, 24), (5000, 7)])
def test_pictures_of_any_shape_are_looked_at(shape):
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert isinstance(load_detector(DetectorSpec(adapter="opencv_haar")).detect(noise), list)


# classifiers of the whole picture


def test_an_onnx_classifier_scores_the_picture(classifier):
    detector = load_detector(classifier())
    assert detector.labels == ("nsfw",)
    [red], [blue] = detector.detect(RED), detector.detect(BLUE)
    assert red.label == "nsfw"
    assert red.box is None
    assert red.score == pytest.approx(np.exp(4) / (np.exp(4) + 1))  # by softmax over 0 and 4
    assert blue.score == pytest.approx(np.exp(-4) / (np.exp(-4) + 1))


def test_activation_output_mean_and_label_are_read(classifier):
    def score(**keys):
        [found] = load_detector(classifier(**keys)).detect(RED)
        return found

    assert score(activation="sigmoid").score == pytest.approx(1 / (1 + np.exp(-4)))
    assert score(activation="none").score == 1, "clipped to 0 to 1"
    assert score(output=0, activation="sigmoid").score == pytest.approx(0.5)
    assert score(mean=[1.0, 0.0, 0.0]).score == pytest.approx(0.5), "red is now the mean"
    assert score(std=[2.0, 1.0, 1.0]).score == pytest.approx(np.exp(2) / (np.exp(2) + 1))
    assert score(label="gore").label == "gore"


def test_what_an_onnx_classifier_cannot_be(classifier, tmp_path):
    with pytest.raises(ValueError, match="1 x 2 numbers, which have no output=5"):
        load_detector(classifier(output=5))
    text = DetectorSpec(adapter="onnx_classifier", **file(tmp_path / "no.onnx", b"no network at all"))
    with pytest.raises(ValueError, match=r"no\.onnx: OpenCV does not run them"):
        load_detector(text)


@pytest.fixture
def encoder(tmp_path):
    """A TorchScript encoder: the direction of a picture's mean colour."""

    class MeanColour(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels.mean(dim=(2, 3))

    path = tmp_path / "encoder.pt"
    torch.jit.script(MeanColour()).save(str(path))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return EmbedderSpec(adapter="torchscript", weights=str(path), sha256=sha256, size=8, **PLAIN)


def clip_head(encoder, path, tensors):
    data = safetensors.numpy.save({name: np.asarray(values, np.float32) for name, values in tensors.items()})
    return DetectorSpec(adapter="clip_head", **file(path, data), encoder=encoder)


def test_a_linear_head_scores_the_encoders_vector(encoder, tmp_path):
    detector = load_detector(clip_head(encoder, tmp_path / "h", {"weight": [[3, 0, -3]], "bias": [1]}))
    assert detector.detect(RED) == [Detection("nsfw", pytest.approx(1 / (1 + np.exp(-4))), None)]
    assert detector.detect(BLUE) == [Detection("nsfw", pytest.approx(1 / (1 + np.exp(2))), None)]


def test_a_deeper_head_equals_torch(encoder, tmp_path):
    torch.manual_seed(0)
    head = torch.nn.Sequential(
        torch.nn.Linear(3, 16), torch.nn.ReLU(), torch.nn.Linear(16, 5), torch.nn.ReLU(), torch.nn.Linear(5, 1)
    )
    tensors = {f"layers.{name}": values.numpy() for name, values in head.state_dict().items()}
    detector = load_detector(clip_head(encoder, tmp_path / "h", tensors))
    picture = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    embedder = load_embedder(encoder)
    vector = embedder.embed(embedder.preprocess(Image.fromarray(picture))[None])
    expected = torch.sigmoid(head(torch.from_numpy(vector))).item()
    assert detector.detect(picture)[0].score == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"weight": [[1, 2]], "bias": [0]}, "no chain of linear layers from 3 numbers to 1"),
        ({"0.weight": [[1, 2, 3]] * 2, "0.bias": [0, 0]}, "no chain of linear layers"),
        ({"0.weight": [[1, 2, 3]]}, "no chain of linear layers"),
        ({"running_mean": [1]}, "hold 'running_mean'"),
    ],
)
def test_what_a_head_cannot_be(encoder, tmp_path, tensors, message):
    with pytest.raises(ValueError, match=message):
        load_detector(clip_head(encoder, tmp_path / "h", tensors))


def test_a_pickle_is_no_head(encoder, tmp_path):
    path = tmp_path / "head.pt"
    torch.save({"weight": torch.ones(1, 3)}, path)
    spec = DetectorSpec(adapter="clip_head", **file(path, path.read_bytes()), encoder=encoder)
    with pytest.raises(ValueError, match="no safetensors"):
        load_detector(spec)


# YuNet, from a file that the user brings


def test_another_network_is_no_yunet(tmp_path):
    spec = DetectorSpec(adapter="yunet", **file(tmp_path / "c.onnx", colour_classifier(*NSFW_IS_RED, size=32)))
    with pytest.raises(ValueError, match="no YuNet that OpenCV reads"):
        load_detector(spec)


# nudenet, the extra


def test_nudenet_finds_the_astronaut_and_nothing_unsafe(astronaut):
    pytest.importorskip("nudenet", reason="the safety extra is not installed")
    detector = load_detector(DetectorSpec(adapter="nudenet"))
    assert detector.licence == "AGPL-3.0"
    found = detector.detect(astronaut)
    assert any(abs(x + w / 2 - 225) < 30 and abs(y + h / 2 - 117) < 30 for x, y, w, h in boxes_of(found, ["face"]))
    assert found[-1].label == "nsfw"
    assert found[-1].score < 0.5


@pytest.mark.skipif(importlib.util.find_spec("nudenet") is not None, reason="the safety extra is installed")
def test_without_its_extra_nudenet_is_refused():
    with pytest.raises(ValueError, match=r'pip install "openlvd\[safety\]" \(it is AGPL-3\.0\)'):
        load_detector(DetectorSpec(adapter="nudenet"))


# what all have in common


def test_the_digest_follows_weights_and_settings_and_not_the_place(classifier, tmp_path):
    first = load_detector(classifier())
    moved = tmp_path / "elsewhere.onnx"
    moved.write_bytes((tmp_path / "c.onnx").read_bytes())
    assert load_detector(classifier().model_copy(update={"weights": str(moved)})).digest == first.digest
    assert load_detector(classifier(output=0)).digest != first.digest
    other = file(tmp_path / "other.onnx", colour_classifier(NSFW_IS_RED[0] * 2, NSFW_IS_RED[1], size=8))
    assert load_detector(classifier().model_copy(update=other)).digest != first.digest
    haar = [load_detector(DetectorSpec(adapter="opencv_haar", input_side=side)).digest for side in (320, 480)]
    assert len({*haar, first.digest}) == 3


def test_other_weights_than_the_named_ones_are_refused(classifier, tmp_path):
    spec = classifier()
    (tmp_path / "c.onnx").write_bytes(colour_classifier(NSFW_IS_RED[0] * 2, NSFW_IS_RED[1], size=8))
    with pytest.raises(ValueError, match=f"not {spec.sha256}; get the right file"):
        load_detector(spec)
    with pytest.raises(ValueError, match="cannot be read"):
        load_detector(spec.model_copy(update={"weights": str(tmp_path / "absent.onnx")}))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"adapter": "yunet"}, "the adapter yunet needs the key 'licence'"),
        ({"adapter": "opencv_haar", "weights": "x.xml"}, "has no use for the key 'weights'; remove it"),
        ({"adapter": "opencv_haar", "label": "cat"}, "has no use for the key 'label'; remove it"),
        ({"adapter": "clip_head", "weights": "h", "sha256": "0" * 64, "licence": "MIT"}, "needs the key 'encoder'"),
    ],
)
def test_keys_fit_the_adapter(keys, message):
    with pytest.raises(ValueError, match=message):
        DetectorSpec(**keys)


OWN = {"weights": "w", "sha256": "0" * 64, "licence": "MIT"}
ENCODER = EmbedderSpec(adapter="torchscript", weights="e", sha256="0" * 64)


@pytest.mark.parametrize("adapter", [{"adapter": "onnx_classifier"}, {"adapter": "clip_head", "encoder": ENCODER}])
def test_a_classifier_cannot_claim_what_only_a_box_or_the_screening_can_say(adapter):
    assert DetectorSpec(**adapter, **OWN, label="faces_or_not").labels == ("faces_or_not",)
    with pytest.raises(ValueError, match="a face without a box cannot be blurred; choose another label, or one of"):
        DetectorSpec(**adapter, **OWN, label="face")
    with pytest.raises(ValueError, match="'unseen' is kept for images that do not decode"):
        DetectorSpec(**adapter, **OWN, label="unseen")


@pytest.mark.parametrize("std", [[0.0, 0.0, 0.0], [0.2, 0.2, 0.0], [0.2, -0.2, 0.2], [np.inf, 0.2, 0.2]])
def test_a_deviation_that_gives_no_number_is_refused(std):
    with pytest.raises(ValueError, match=r"greater than 0|finite"):
        DetectorSpec(adapter="onnx_classifier", **OWN, std=std)
    with pytest.raises(ValueError, match=r"greater than 0|finite"):
        EmbedderSpec(adapter="torchscript", weights="e", sha256="0" * 64, std=std)


@pytest.mark.parametrize("label", ["faces", "nsfw", ""])
def test_a_label_without_boxes_cannot_be_blurred(label):
    with pytest.raises(ConfigError, match=rf"recipe\.publish\.blur = .*{label!r}; those it can blur are face"):
        load(CurationConfig, "conf/curation/own.yaml", [f"recipe.publish.blur=['{label}']"])
    assert load(CurationConfig, "conf/curation/own.yaml", ["recipe.publish.blur=[]"]).recipe.publish.blur == []


@pytest.mark.parametrize("adapter", ["opencv_haar", "nudenet"])
def test_what_can_be_blurred_comes_with_boxes(adapter, astronaut):
    if adapter == "nudenet" and not importlib.util.find_spec("nudenet"):
        pytest.skip("the extra is not installed")
    found = load_detector(DetectorSpec(adapter=adapter)).detect(astronaut)
    assert {detection.label for detection in found if detection.box} == set(BOXED)


@pytest.mark.parametrize("recipe", ["demo", "own"])
def test_the_shipped_detector_can_be_switched_off_or_replaced(recipe):
    def detectors(*overrides):
        return load(CurationConfig, f"conf/curation/{recipe}.yaml", overrides).recipe.screen.detectors

    nobody = "recipe.screen.detectors={}"
    assert detectors(nobody) == {}
    assert list(detectors(nobody, "recipe.screen.detectors.mine={adapter: opencv_haar}")) == ["mine"]
    assert list(detectors("recipe.screen.detectors.mine={adapter: opencv_haar}")) == ["opencv", "mine"]


def test_a_threshold_without_anybody_who_scores_is_refused():
    with pytest.raises(ConfigError, match="nsfw_threshold needs a detector that finds nsfw"):
        load(CurationConfig, "conf/curation/demo.yaml", ["recipe.screen.nsfw_threshold=0.7"])


def test_a_misspelt_key_names_the_right_one():
    with pytest.raises(ConfigError, match=r"did you mean 'recipe\.screen\.detectors\.opencv\.threshold'"):
        load(CurationConfig, "conf/curation/demo.yaml", ["recipe.screen.detectors.opencv.treshold=0.7"])


def test_the_shipped_recipes_name_a_detector_of_faces():
    for recipe in ("demo", "own"):
        detectors = load(CurationConfig, f"conf/curation/{recipe}.yaml").recipe.screen.detectors
        assert any("face" in spec.labels for spec in detectors.values())
        assert all(len(digest(spec)) == 64 for spec in detectors.values())
