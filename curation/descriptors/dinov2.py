"""Vision transformers whose weights are named as upstream DINOv2 names them: its own releases, and our checkpoints.

The weights tell their architecture: width, depth, patch, grid, registers, layer scale, SwiGLU. The vector is the class
token after the last norm, or the mean of the patch tokens where there is no class token (I-JEPA).
"""

import io
import math
import pickle
import re
from functools import partial
from typing import Any

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from curation.descriptors.base import EmbedderSpec
from curation.descriptors.trained import TrainedEmbedder
from curation.weights import read_weights

Tensors = dict[str, Tensor]

_HEAD_DIM = 64
_BLOCK = re.compile(r"blocks\.(?:\d+\.)?(\d+)\.(.+)")  # releases that were sharded have "blocks.<chunk>.<block>."
_OURS = {"mlp.w12": "mlp.fc1", "mlp.w3": "mlp.fc2", "register_tokens": "reg_token"}  # upstream's names to timm's


def load_dinov2(spec: EmbedderSpec) -> TrainedEmbedder:
    """Load ``teacher_backbone.safetensors`` of a training run, or one of DINOv2's ``*_pretrain.pth``.

    Raises:
        ValueError: the file is missing, has another hash, holds more than tensors, or is no such transformer.
    """
    assert spec.weights is not None
    assert spec.sha256 is not None
    tensors = read_tensors(spec.weights, spec.sha256)
    network = vision_transformer(spec.weights, tensors, spec.size, spec.num_heads)
    return TrainedEmbedder(f"dinov2:{spec.sha256[:12]}", network, spec)


def read_tensors(path: str, sha256: str) -> Tensors:
    """The tensors of a safetensors or PyTorch file, as float32; nothing but tensors is unpickled.

    Raises:
        ValueError: the file is missing, has another hash, or is neither.
    """
    data = read_weights(path, sha256)
    try:
        if data[:2] == b"PK":  # a zip archive, which is what torch.save writes
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        else:
            found = safetensors.torch.load(data)
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError) as error:
        why = " ".join(str(error).split())[:200]
        raise ValueError(f"weights {path} are no safetensors, nor a PyTorch file of tensors only: {why}") from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"weights {path} hold more than named tensors; export the backbone's state dict")
    return {name: value.float() if value.is_floating_point() else value for name, value in found.items()}


def vision_transformer(
    path: str, tensors: Tensors, size: int, num_heads: int | None = None, epsilon: float = 1e-6
) -> nn.Module:
    """The transformer that upstream-named tensors describe, for square pictures of ``size`` pixels.

    Args:
        path: for messages.
        tensors: named as upstream; ``mask_token`` is not used.
        size: pixels; the position embedding is interpolated to it as upstream does.
        num_heads: of attention; None: 64 dimensions each.
        epsilon: of the norms.

    Raises:
        ValueError: the tensors are no such transformer, or the size is not a multiple of its patch.
    """
    tensors = {_BLOCK.sub(r"blocks.\1.\2", name): value for name, value in tensors.items() if name != "mask_token"}
    blocks = {int(match[1]) for name in tensors if (match := _BLOCK.fullmatch(name))}
    is_gated = "blocks.0.mlp.w12.weight" in tensors
    first = "blocks.0.mlp.w12.bias" if is_gated else "blocks.0.mlp.fc1.bias"
    for name, ndim in (("patch_embed.proj.weight", 4), ("pos_embed", 3), (first, 1)):
        if name not in tensors or tensors[name].ndim != ndim:
            has = f"of {tensors[name].ndim}" if name in tensors else "none"
            raise ValueError(
                f"weights {path} are no vision transformer with DINOv2's names: they need {name} of {ndim} dimensions "
                f"and have {has}; name a file of a backbone alone"
            )
    dim, _, patch, _ = tensors["patch_embed.proj.weight"].shape
    position, depth, hidden = tensors.pop("pos_embed"), 1 + max(blocks), len(tensors[first])
    if size % patch:
        near = max(patch, round(size / patch) * patch)
        raise ValueError(f"size = {size} is no multiple of the patch of {path}, {patch}; try {near}")
    heads = num_heads or dim // _HEAD_DIM
    if not heads:
        raise ValueError(
            f"the width of {path}, {dim}, is less than one head's {_HEAD_DIM}; set num_heads, the model's own"
        )
    if dim % heads:
        raise ValueError(f"num_heads = {heads} does not divide the width of {path}, {dim}; give the model's own")
    class_token, registers = tensors.get("cls_token"), tensors.get("register_tokens")
    num_registers = 0 if registers is None else registers.shape[1]
    patches = position[:, 0 if class_token is None else 1 :]
    if math.isqrt(patches.shape[1]) ** 2 != patches.shape[1] or not patches.shape[1]:
        raise ValueError(
            f"weights {path} have places for {patches.shape[1]} patches, which are no square; no such model is read"
        )
    tensors["pos_embed"] = interpolated(patches, size // patch, bool(num_registers))
    if class_token is not None:
        tensors["cls_token"] = (
            class_token + position[:, :1]
        )  # registers lie between it and the patches, without a place
    gate: dict[str, Any] = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU} if is_gated else {}
    network = VisionTransformer(
        img_size=size,
        patch_size=patch,
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        mlp_ratio=(hidden + 0.5) / dim,  # rounded down again
        **gate,
        qkv_bias="blocks.0.attn.qkv.bias" in tensors,
        init_values=1.0 if "blocks.0.ls1.gamma" in tensors else None,
        norm_layer=partial(nn.LayerNorm, eps=epsilon),
        class_token=class_token is not None,
        reg_tokens=num_registers,
        no_embed_class=True,
        global_pool="token" if class_token is not None else "avg",
        fc_norm=False,
        num_classes=0,
    )
    renamed = {_timm_name(name): value for name, value in tensors.items()}
    try:
        network.load_state_dict(renamed, strict=True)
    except RuntimeError as error:
        why = " ".join(str(error).split())[:300]
        raise ValueError(f"weights {path} do not fit a transformer of width {dim} and depth {depth}: {why}") from error
    return network


def interpolated(patches: Tensor, grid: int, has_registers: bool) -> Tensor:
    """Position embedding [1, n, D] of a square grid for another, bicubic as upstream: [1, grid * grid, D].

    Without registers upstream passes a scale factor with 0.1 patch added, with registers the size, and antialiases.
    """
    old = round(patches.shape[1] ** 0.5)
    if old == grid:
        return patches
    image = patches.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    if has_registers:
        image = F.interpolate(image, size=(grid, grid), mode="bicubic", antialias=True)
    else:
        factor = (grid + 0.1) / old
        image = F.interpolate(image, scale_factor=(factor, factor), mode="bicubic")
    return image.flatten(2).transpose(1, 2)


def _timm_name(name: str) -> str:
    for theirs, ours in _OURS.items():
        name = name.replace(theirs, ours)
    return name
