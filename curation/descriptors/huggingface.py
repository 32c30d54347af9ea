"""Embedders from a local folder in Hugging Face's form: ``config.json`` beside ``model.safetensors``.

Read are DINOv2 (with and without registers), ViT, MAE's encoder and I-JEPA as the transformers library writes them, and
whatever timm writes. No code of the folder runs and nothing is downloaded.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import torch

from curation.descriptors import preparation
from curation.descriptors.base import EmbedderSpec
from curation.descriptors.dinov2 import Tensors, read_tensors, vision_transformer
from curation.descriptors.timm_model import build
from curation.descriptors.trained import TrainedEmbedder
from curation.store import locate, open_uri

_TYPES = ("dinov2", "dinov2_with_registers", "vit", "vit_mae", "ijepa")
_NAMES = {  # the transformers library's to upstream DINOv2's
    r"embeddings\.(cls_token|mask_token|register_tokens)": r"\1",
    r"embeddings\.position_embeddings": "pos_embed",
    r"embeddings\.patch_embeddings\.projection\.(.+)": r"patch_embed.proj.\1",
    r"encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(.+)": r"blocks.\1.attn.\2.\3",
    r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(.+)": r"blocks.\1.attn.proj.\2",
    r"encoder\.layer\.(\d+)\.(norm[12])\.(.+)": r"blocks.\1.\2.\3",
    r"encoder\.layer\.(\d+)\.layernorm_before\.(.+)": r"blocks.\1.norm1.\2",
    r"encoder\.layer\.(\d+)\.layernorm_after\.(.+)": r"blocks.\1.norm2.\2",
    r"encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1": r"blocks.\1.ls\2.gamma",
    r"encoder\.layer\.(\d+)\.mlp\.(fc[12])\.(.+)": r"blocks.\1.mlp.\2.\3",
    r"encoder\.layer\.(\d+)\.intermediate\.dense\.(.+)": r"blocks.\1.mlp.fc1.\2",
    r"encoder\.layer\.(\d+)\.output\.dense\.(.+)": r"blocks.\1.mlp.fc2.\2",
    r"encoder\.layer\.(\d+)\.mlp\.weights_in\.(.+)": r"blocks.\1.mlp.w12.\2",
    r"encoder\.layer\.(\d+)\.mlp\.weights_out\.(.+)": r"blocks.\1.mlp.w3.\2",
    r"layernorm\.(.+)": r"norm.\1",
}
_NOT_USED = ("pooler.", "classifier.", "head.", "decoder.", "lm_head.")
_PREFIXES = ("dinov2.", "dinov2_with_registers.", "vit.", "ijepa.")


def load_huggingface(spec: EmbedderSpec) -> TrainedEmbedder:
    """Load a folder's model.

    Raises:
        ValueError: a file is missing, the weights have another hash, the model is of a kind that is not read, or the
            folder says otherwise than the specification how pictures are brought to it.
    """
    assert spec.weights is not None
    assert spec.sha256 is not None
    folder = spec.weights.rstrip("/")
    config, path = _config(f"{folder}/config.json"), f"{folder}/model.safetensors"
    tensors = read_tensors(path, spec.sha256)
    told = json.dumps(config, sort_keys=True)
    beside = f"{folder}/preprocessor_config.json"
    filesystem, place = locate(beside)
    if filesystem.exists(place):
        preparation.check(spec, _config(beside), beside, preparation.of_preprocessor)
    if "architecture" in config:
        stated = config.get("pretrained_cfg", config)  # timm's older folders have it there
        preparation.check(spec, stated, f"{folder}/config.json", preparation.of_timm)
        architecture, given = config["architecture"], config.get("model_args") or {}
        if not isinstance(architecture, str) or not isinstance(given, dict):
            raise ValueError(
                f"{folder}/config.json: architecture is {architecture!r} and model_args {given!r}; a folder that timm "
                "wrote has a name and a mapping there"
            )
        network = build(architecture, {**given, **spec.options}, path, tensors)
        return TrainedEmbedder(f"huggingface:{architecture}", network, spec, told)
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in _TYPES:
        raise ValueError(
            f"{folder}/config.json: model_type is {kind!r}; read are {', '.join(_TYPES)}, and timm's folders"
        )
    if config.get("hidden_act", "gelu") != "gelu":
        raise ValueError(f"{folder}/config.json: hidden_act is {config['hidden_act']!r}; only gelu is read")
    if spec.options:
        raise ValueError(f"options = {spec.options}: only a folder that timm wrote takes any; remove them")
    heads = config.get("num_attention_heads")
    epsilon = config.get("layer_norm_eps", 1e-6 if kind.startswith("dinov2") else 1e-12)
    for key, value, kinds in (("num_attention_heads", heads, int | None), ("layer_norm_eps", epsilon, int | float)):
        if not isinstance(value, kinds) or (value is not None and value <= 0):
            raise ValueError(f"{folder}/config.json: {key} is {value!r}; it is a number above 0")
    network = vision_transformer(path, upstream_names(path, tensors), spec.size, heads, float(epsilon))
    return TrainedEmbedder(f"huggingface:{kind}", network, spec, told)


def upstream_names(path: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """The tensors of the transformers library under the names of upstream DINOv2; heads and decoders are left out.

    Raises:
        ValueError: a name is unknown.
    """
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        bare = next((name.removeprefix(prefix) for prefix in _PREFIXES if name.startswith(prefix)), name)
        if bare.startswith(_NOT_USED):
            continue
        for pattern, ours in _NAMES.items():
            if match := re.fullmatch(pattern, bare):
                renamed[match.expand(ours)] = tensor
                break
        else:
            raise ValueError(f"weights {path} hold {name!r}, which no model of {', '.join(_TYPES)} has")
    for name in [name for name in renamed if ".attn.query." in name]:
        parts = [renamed.pop(name.replace(".query.", f".{part}.")) for part in ("query", "key", "value")]
        renamed[name.replace(".query.", ".qkv.")] = torch.cat(parts)
    return renamed


def _config(path: str) -> dict[str, Any]:
    try:
        with open_uri(path) as file:
            config = json.load(file)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read: {error}; set weights to the folder of a Hugging Face model"
        ) from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds no settings; set weights to the folder of a Hugging Face model")
    return config
