"""Embedders from an architecture that timm knows and a local file of tensors; nothing is downloaded.

An architecture of a known family that has no name of its own is one with options: the ViT-H/16 that LVD-142M was
retrieved with (DINOv2 paper, section 3) is ``model: vit_huge_patch14_224, options: {patch_size: 16}``.

Options come from a configuration or from the folder of a model, whose settings no hash vouches for. They are plain
values, and go to the architecture's own function: what timm's factory takes besides, such as a checkpoint to unpickle
or a place to download from, is refused.
"""

from collections.abc import Mapping
from typing import Any

import timm
from torch import nn

from curation.descriptors import preparation
from curation.descriptors.base import EmbedderSpec
from curation.descriptors.dinov2 import Tensors, read_tensors
from curation.descriptors.trained import TrainedEmbedder

_REFUSED = {  # of timm's factory and builder: they load other weights, or give something else than one vector
    "cache_dir", "checkpoint_path", "custom_load", "exportable", "feature_cfg", "feature_cls", "features_only", "file",
    "hf_hub_id", "kwargs_filter", "model_cfg", "model_name", "no_jit", "out_indices", "pruned", "scriptable", "source",
    "state_dict", "url", "weights",
}  # fmt: skip


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
    network = build(spec.model, spec.options, spec.weights, tensors)
    entry = timm.get_pretrained_cfg(spec.model) if "." in spec.model else None
    if entry is not None:  # the tag names weights that timm knows, and how they were trained
        told = f"timm's entry for {spec.model} (name it without its tag to bring pictures to it otherwise)"
        preparation.check(spec, entry.to_dict(), told, preparation.of_timm)
    return TrainedEmbedder(f"timm:{spec.model}", network, spec)


def build(model: str, options: Mapping[str, Any], path: str, tensors: Tensors) -> nn.Module:
    """The architecture with these weights; ``path`` is for messages.

    Raises:
        ValueError: as of :func:`load_timm`.
    """
    if not timm.is_model(model):
        near = ", ".join(timm.list_models(f"*{model.split('.')[0][:12]}*")[:5])
        raise ValueError(f"model {model!r} is unknown to timm {timm.__version__}; near it: {near or 'none'}")
    options = {**checked_options(options), "num_classes": 0}
    name, _, tag = model.partition(".")
    try:
        network: Any = timm.models.model_entrypoint(name)(pretrained=False, pretrained_cfg=tag or None, **options)
    except (TypeError, ValueError, RuntimeError, AssertionError, LookupError, ArithmeticError, AttributeError) as error:
        raise ValueError(f"model {model} cannot be built with options = {options}: {error}") from error
    classifier = network.pretrained_cfg.get("classifier") or ()
    heads = tuple(f"{name}." for name in ((classifier,) if isinstance(classifier, str) else classifier))
    try:
        network.load_state_dict({k: v for k, v in tensors.items() if not k.startswith(heads)}, strict=True)
    except RuntimeError as error:
        raise ValueError(f"weights {path} do not fit {model}: {' '.join(str(error).split())}") from error
    return network


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of an architecture, or ``model_args`` of a folder, without nulls, which stand for its defaults.

    Raises:
        ValueError: one is no plain value, or is none of the architecture's.
    """
    for name, value in options.items():
        if name in _REFUSED or name.startswith("pretrained"):
            raise ValueError(
                f"option {name} = {value!r} is not the architecture's, and weights come from the hashed file alone; "
                "remove it from options, or from model_args in the folder's config.json"
            )
        if not _is_plain(value):
            raise ValueError(
                f"option {name} = {value!r} is not read; give a number, a text, true or false, or a list of numbers, "
                "or remove it from options, or from model_args in the folder's config.json"
            )
    return {name: value for name, value in options.items() if value is not None}


def _is_plain(value: Any) -> bool:
    numbers = value if isinstance(value, list) else []
    return isinstance(value, int | float | str | list | None) and all(isinstance(x, int | float) for x in numbers)
