"""Embedders from an architecture that timm knows and a local file of tensors; nothing is downloaded.

An architecture of a known family that has no name of its own is one with options: the ViT-H/16 that LVD-142M was
retrieved with (DINOv2 paper, section 3) is ``model: vit_huge_patch14_224, options: {patch_size: 16}``.
"""

from collections.abc import Mapping
from typing import Any

import timm
from torch import nn

from curation.descriptors.base import EmbedderSpec
from curation.descriptors.dinov2 import Tensors, read_tensors
from curation.descriptors.trained import TrainedEmbedder


def load_timm(spec: EmbedderSpec) -> TrainedEmbedder:
    """Build the architecture without its classifier and fill it; a classifier in the file is passed over.

    Raises:
        ValueError: timm does not know the name or an option, or the file is missing, has another hash, holds more than
            tensors, or does not fill the architecture exactly.
    """
    assert spec.model is not None
    assert spec.weights is not None
    assert spec.sha256 is not None
    tensors = read_tensors(spec.weights, spec.sha256)
    return TrainedEmbedder(f"timm:{spec.model}", build(spec.model, spec.options, spec.weights, tensors), spec)


def build(model: str, options: Mapping[str, Any], path: str, tensors: Tensors) -> nn.Module:
    """The architecture with these weights; ``path`` is for messages.

    Raises:
        ValueError: as of :func:`load_timm`.
    """
    if not timm.is_model(model):
        near = ", ".join(timm.list_models(f"*{model.split('.')[0][:12]}*")[:5])
        raise ValueError(f"model {model!r} is unknown to timm {timm.__version__}; near it: {near or 'none'}")
    try:
        network: Any = timm.create_model(model, pretrained=False, num_classes=0, **options)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise ValueError(f"model {model} cannot be built with options = {dict(options)}: {error}") from error
    classifier = network.pretrained_cfg.get("classifier") or ()
    heads = tuple(f"{name}." for name in ((classifier,) if isinstance(classifier, str) else classifier))
    try:
        network.load_state_dict({k: v for k, v in tensors.items() if not k.startswith(heads)}, strict=True)
    except RuntimeError as error:
        raise ValueError(f"weights {path} do not fit {model}: {' '.join(str(error).split())}") from error
    return network
