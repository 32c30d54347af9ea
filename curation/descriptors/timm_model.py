"""Embedders from an architecture that timm knows and a local safetensors file; nothing is downloaded."""

from typing import Any

import safetensors
import safetensors.torch
import timm

from curation.descriptors.base import EmbedderSpec
from curation.descriptors.trained import TrainedEmbedder
from curation.weights import read_weights


def load_timm(spec: EmbedderSpec) -> TrainedEmbedder:
    """Build the architecture without its classifier and fill it; a classifier in the file is passed over.

    Raises:
        ValueError: timm does not know the name, or the file is missing, has another hash, is no safetensors, or
            does not fill the architecture exactly.
    """
    assert spec.model is not None
    assert spec.weights is not None
    assert spec.sha256 is not None
    if not timm.is_model(spec.model):
        near = ", ".join(timm.list_models(f"*{spec.model.split('.')[0][:12]}*")[:5])
        raise ValueError(f"model {spec.model!r} is unknown to timm {timm.__version__}; near it: {near or 'none'}")
    network: Any = timm.create_model(spec.model, pretrained=False, num_classes=0)
    try:
        tensors = safetensors.torch.load(read_weights(spec.weights, spec.sha256))
    except safetensors.SafetensorError as error:
        raise ValueError(f"weights {spec.weights} are no safetensors: {error}") from error
    classifier = network.pretrained_cfg.get("classifier") or ()
    heads = tuple(f"{name}." for name in ((classifier,) if isinstance(classifier, str) else classifier))
    try:
        network.load_state_dict({k: v for k, v in tensors.items() if not k.startswith(heads)}, strict=True)
    except RuntimeError as error:
        raise ValueError(f"weights {spec.weights} do not fit {spec.model}: {' '.join(str(error).split())}") from error
    return TrainedEmbedder(f"timm:{spec.model}", network, spec)
