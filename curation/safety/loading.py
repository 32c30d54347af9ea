"""The detector that a configuration names."""

from collections.abc import Callable

from curation.safety.base import Detector, DetectorSpec


def load_detector(spec: DetectorSpec) -> Detector:
    """Make the detector that a specification names; imports its library only now.

    Raises:
        ValueError: its weights are missing, are not the ones that were named, or do not fit; or its extra is missing.
    """
    return _ADAPTERS[spec.adapter](spec)


def _opencv_haar(spec: DetectorSpec) -> Detector:
    from curation.safety.opencv_haar import OpencvHaar

    return OpencvHaar(spec)


def _yunet(spec: DetectorSpec) -> Detector:
    from curation.safety.yunet import Yunet

    return Yunet(spec)


def _onnx_classifier(spec: DetectorSpec) -> Detector:
    from curation.safety.onnx_classifier import OnnxClassifier

    return OnnxClassifier(spec)


def _clip_head(spec: DetectorSpec) -> Detector:
    from curation.safety.clip_head import ClipHead

    return ClipHead(spec)


def _nudenet(spec: DetectorSpec) -> Detector:
    from curation.safety.nudenet import Nudenet

    return Nudenet(spec)


_ADAPTERS: dict[str, Callable[[DetectorSpec], Detector]] = {
    "opencv_haar": _opencv_haar,
    "yunet": _yunet,
    "onnx_classifier": _onnx_classifier,
    "clip_head": _clip_head,
    "nudenet": _nudenet,
}
