"""What every detector offers, and how a configuration names one."""

import hashlib
from collections.abc import Collection, Iterable
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import numpy as np
from pydantic import Field, FiniteFloat, model_validator

from conf import Section, digest
from curation.descriptors.base import EmbedderSpec

FACE, NSFW = "face", "nsfw"  # labels that a stage acts on; a classifier may have any other
BOXED = (FACE,)  # labels that come with boxes: what a release can blur
UNSEEN = "unseen"  # the label of an image that decodes at a reduced scale, but not at its full size

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


class WeightsFile(NamedTuple):
    """A user's own weights, and what is on record of them."""

    path: str
    sha256: str
    licence: str
    version: str


class DetectorSpec(Section):
    """One detector of a configuration; only ``opencv_haar`` needs no file and no extra."""

    adapter: Literal["opencv_haar", "yunet", "onnx_classifier", "clip_head", "nudenet"]
    threshold: float = Field(0.5, gt=0, lt=1)  # lowest score that counts as a finding
    input_side: int = Field(480, gt=0)  # longest side in pixels of what the detector looks at
    weights: str | None = None  # path or fsspec URI: ONNX, or for clip_head the head's safetensors
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")  # of the weights file
    licence: str | None = None  # of the weights, for the record; an SPDX identifier where there is one
    version: str | None = None  # of the weights, for the record; by default the start of their hash
    label: str = Field(NSFW, pattern="^[a-z][a-z0-9_]*$")  # what a classifier's score means
    size: int = Field(224, gt=0)  # pixels of a classifier's square input
    mean: list[FiniteFloat] = Field([0.485, 0.456, 0.406], min_length=3, max_length=3)  # ImageNet's, of values 0 to 1
    std: list[Annotated[FiniteFloat, Field(gt=0)]] = Field([0.229, 0.224, 0.225], min_length=3, max_length=3)
    output: int = Field(1, ge=0)  # which of a classifier's outputs is the score
    activation: Literal["softmax", "sigmoid", "none"] = "softmax"  # from the outputs to scores
    encoder: EmbedderSpec | None = None  # of clip_head: the image encoder that its head was trained on

    @model_validator(mode="after")
    def _keys_fit_the_adapter(self) -> "DetectorSpec":
        needed, optional = _KEYS[self.adapter]
        for key in sorted(needed):
            if getattr(self, key) is None:
                raise ValueError(f"the adapter {self.adapter} needs the key {key!r}")
        for key in sorted(self.model_fields_set - needed - optional - {"adapter"}):
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"the adapter {self.adapter} has no use for the key {key!r}; remove it")
        if self.label == UNSEEN:
            raise ValueError(f"the label {UNSEEN!r} is kept for images that do not decode; choose another")
        if self.adapter not in _LABELS and self.label in BOXED:
            raise ValueError(
                f"the adapter {self.adapter} scores whole pictures, and a {self.label} without a box cannot be "
                f"blurred; choose another label, or one of the adapters {', '.join(_LABELS)}"
            )
        return self

    @property
    def file(self) -> WeightsFile:
        """The weights of an adapter that needs a file."""
        assert self.weights is not None, self.adapter
        assert self.sha256 is not None, self.adapter
        assert self.licence is not None, self.adapter
        return WeightsFile(self.weights, self.sha256, self.licence, self.version or self.sha256[:12])

    @property
    def labels(self) -> tuple[str, ...]:
        """What the detector can find."""
        return _LABELS.get(self.adapter, (self.label,))


_FILE = {"weights", "sha256", "licence"}
_KEYS: dict[str, tuple[set[str], set[str]]] = {  # adapter -> the keys that it needs, and those that it can have
    "opencv_haar": (set(), {"threshold", "input_side"}),
    "yunet": (_FILE, {"version", "threshold", "input_side"}),
    "onnx_classifier": (_FILE, {"version", "label", "size", "mean", "std", "output", "activation"}),
    "clip_head": (_FILE | {"encoder"}, {"version", "label"}),
    "nudenet": (set(), {"threshold"}),
}
_LABELS = {"opencv_haar": (FACE,), "yunet": (FACE,), "nudenet": (FACE, NSFW)}


def digest_of(spec: DetectorSpec, *parts: str) -> str:
    """SHA-256 (hex) of a detector's settings and of whatever else decides its findings.

    Where a file lies is left out: its hash counts, not its place.
    """
    placeless: dict[str, Any] = {"weights": None}
    if spec.encoder is not None:
        placeless["encoder"] = spec.encoder.model_copy(update={"weights": None})
    return hashlib.sha256(" ".join([digest(spec.model_copy(update=placeless)), *parts]).encode()).hexdigest()


def boxes_of(detections: Iterable[Detection], labels: Collection[str]) -> list[Box]:
    """The boxes of the findings that have one of the labels; a finding without a box has none to blur."""
    return [found.box for found in detections if found.label in labels and found.box is not None]
