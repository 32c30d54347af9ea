"""Weights of a backbone between our names, which are upstream DINOv2's, and those of timm and of transformers."""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

Tensors = dict[str, Tensor]

_CHUNK = re.compile(r"blocks\.\d+\.(\d+)\.")
_TIMM = {"register_tokens": "reg_token", "mlp.w12.": "mlp.fc1.", "mlp.w3.": "mlp.fc2."}
_TRANSFORMERS = {  # ours to theirs, a star for what stays; they keep ``qkv`` in three
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "register_tokens": "embeddings.register_tokens",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.*": "embeddings.patch_embeddings.projection.*",
    "blocks.*.attn.query.*": "encoder.layer.*.attention.attention.query.*",
    "blocks.*.attn.key.*": "encoder.layer.*.attention.attention.key.*",
    "blocks.*.attn.value.*": "encoder.layer.*.attention.attention.value.*",
    "blocks.*.attn.proj.*": "encoder.layer.*.attention.output.dense.*",
    "blocks.*.norm1.*": "encoder.layer.*.norm1.*",
    "blocks.*.norm2.*": "encoder.layer.*.norm2.*",
    "blocks.*.ls1.gamma": "encoder.layer.*.layer_scale1.lambda1",
    "blocks.*.ls2.gamma": "encoder.layer.*.layer_scale2.lambda1",
    "blocks.*.mlp.w12.*": "encoder.layer.*.mlp.weights_in.*",
    "blocks.*.mlp.w3.*": "encoder.layer.*.mlp.weights_out.*",
    "blocks.*.mlp.*.*": "encoder.layer.*.mlp.*.*",
    "norm.*": "layernorm.*",
}
_PARTS = ("query", "key", "value")


def from_upstream(tensors: Mapping[str, Tensor]) -> Tensors:
    """Upstream's releases; those trained in shards name blocks twice, ``blocks.<chunk>.<block>.``."""
    return {_CHUNK.sub(r"blocks.\1.", name): value for name, value in tensors.items()}


def to_timm(tensors: Mapping[str, Tensor]) -> Tensors:
    """For timm's ``vit_*_dinov2``; it has no mask token, nor, with registers, a place of the class token."""
    theirs = {_replace(name, _TIMM): value for name, value in tensors.items() if name != "mask_token"}
    if "reg_token" in theirs:
        theirs["cls_token"] = theirs["cls_token"] + theirs["pos_embed"][:, :1]
        theirs["pos_embed"] = theirs["pos_embed"][:, 1:]
    return theirs


def from_timm(tensors: Mapping[str, Tensor]) -> Tensors:
    """From timm's ``vit_*_dinov2``; the mask token, which it lacks, is zero, as in a new model."""
    swiglu = tensors["blocks.0.mlp.fc1.weight"].shape[0] != tensors["blocks.0.mlp.fc2.weight"].shape[1]
    names = {theirs: ours for ours, theirs in _TIMM.items() if swiglu or not ours.startswith("mlp")}
    ours = {
        _replace(name, names): value for name, value in tensors.items() if not name.startswith(("head.", "fc_norm."))
    }
    if "register_tokens" in ours:
        ours["pos_embed"] = torch.cat((torch.zeros_like(ours["cls_token"]), ours["pos_embed"]), dim=1)
    return ours | {"mask_token": torch.zeros_like(ours["cls_token"][0])}


def to_transformers(tensors: Mapping[str, Tensor]) -> Tensors:
    """For transformers' ``Dinov2Model``, or ``Dinov2WithRegistersModel`` where there are registers."""
    split: Tensors = {}
    for name, value in tensors.items():
        if ".qkv." in name:
            parts = zip(_PARTS, value.chunk(3), strict=True)
            split |= {name.replace(".qkv.", f".{part}."): third.contiguous() for part, third in parts}
        else:
            split[name] = value
    return {_rename(name, _TRANSFORMERS): value for name, value in split.items()}


def from_transformers(tensors: Mapping[str, Tensor]) -> Tensors:
    """From transformers' ``Dinov2Model`` or ``Dinov2WithRegistersModel``.

    Raises:
        ValueError: a name is none of theirs.
    """
    back = {theirs: ours for ours, theirs in _TRANSFORMERS.items()}
    ours = {_rename(name, back): value for name, value in tensors.items()}
    for name in [name for name in ours if f".{_PARTS[0]}." in name]:
        parts = [ours.pop(name.replace(_PARTS[0], part)) for part in _PARTS]
        ours[name.replace(_PARTS[0], "qkv")] = torch.cat(parts)
    return ours


class Format(NamedTuple):
    """Whose names a file has."""

    ours: Callable[[Mapping[str, Tensor]], Tensors]  # from theirs
    theirs: Callable[[Mapping[str, Tensor]], Tensors]  # from ours


FORMATS = {
    "upstream": Format(from_upstream, dict),
    "timm": Format(from_timm, to_timm),
    "transformers": Format(from_transformers, to_transformers),
}


def recognised(tensors: Mapping[str, Tensor]) -> str:
    """Whose names these are; a backbone of upstream's has a mask token, one of timm's has none."""
    if any(name.startswith("embeddings.") for name in tensors):
        return "transformers"
    return "upstream" if "mask_token" in tensors else "timm"


def _replace(name: str, names: Mapping[str, str]) -> str:
    for old, new in names.items():
        name = name.replace(old, new)
    return name


def _rename(name: str, patterns: Mapping[str, str]) -> str:
    for old, new in patterns.items():
        if match := re.fullmatch(re.escape(old).replace(r"\*", r"(\w+)"), name):
            return new.replace("*", "{}").format(*match.groups())
    raise ValueError(f"{name!r} is no tensor of a DINOv2 backbone; give the backbone's state dict alone")
