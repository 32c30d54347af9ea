"""Weights that a run starts from: its own, upstream's, timm's or transformers', their hash verified."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from training.config import Initial
from training.models.formats import FORMATS, Tensors, recognised
from training.phases import resized_positions
from training.pretrained import verified

_WRAPPERS = ("teacher", "model", "state_dict")  # keys under which files keep the tensors, beside other things


def start_from(initial: Initial, networks: Sequence[nn.ModuleDict]) -> None:
    """Load a file into the backbone, and where ``initial.heads`` into every head, of each network.

    A position embedding for another grid is interpolated.

    Args:
        initial: the file and what it is.
        networks: student and teacher, of equal shape.

    Raises:
        ValueError: another hash, a file of more than tensors, or tensors that do not fit; the first such is named.
        OSError: the file cannot be read.
    """
    parts = read_parts(initial)
    wanted = list(networks[0]) if initial.heads else ["backbone"]
    for part in wanted:
        if part not in parts:
            raise ValueError(
                f"{initial.path}: holds {', '.join(parts)}, no {part}; set recipe.initial.heads=false, or recipe.heads "
                "as they are in the file"
            )
    for part in wanted:
        weights = fitted(parts[part], networks[0][part], f"{initial.path}: {part}")
        for network in networks:
            network[part].load_state_dict(weights)


def read_parts(initial: Initial) -> dict[str, Tensors]:
    """What a file holds, by part and in our names: ``backbone`` and, in upstream's teacher checkpoints, heads.

    Raises:
        ValueError: another hash, more than tensors, or names of no known format.
        OSError: the file cannot be read.
    """
    path = Path(initial.path)
    tensors = _tensors(path, verified(path, initial.sha256, "recipe.initial.sha256 says; is it the right file?"))
    parts: dict[str, Tensors] = {}
    if any(name.startswith("backbone.") for name in tensors):
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = value
    else:
        parts["backbone"] = dict(tensors)
    name = recognised(parts["backbone"]) if initial.format == "auto" else initial.format
    try:
        parts["backbone"] = FORMATS[name].ours(parts["backbone"])
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{path}: is no DINOv2 backbone in the format {name!r}: {error}; set recipe.initial"
        ) from error
    return parts


def fitted(tensors: Mapping[str, Tensor], module: nn.Module, told: str) -> Tensors:
    """The tensors as a module takes them: fp32, the position embedding on its grid.

    Args:
        tensors: in our names.
        module: a backbone or a head.
        told: how the message begins: which file, which part.

    Raises:
        ValueError: one is missing, has another shape, or is not of the module.
    """
    weights: Tensors = {}
    for name, value in module.state_dict().items():
        if name not in tensors:
            raise ValueError(f"{told} has no tensor {name!r} {list(value.shape)}; set recipe.model as in the file")
        found = tensors[name]
        if name == "pos_embed" and _is_square(found):
            found = resized_positions(found, value.shape[1])
        if found.shape != value.shape:
            raise ValueError(
                f"{told} has {name!r} {list(found.shape)}, the recipe's model {list(value.shape)}; "
                "set recipe.model and recipe.heads as in the file"
            )
        weights[name] = found.float()
    if more := next((name for name in tensors if name not in weights), None):
        raise ValueError(
            f"{told} has a tensor {more!r} {list(tensors[more].shape)}, which the recipe's model has not; "
            "set recipe.model as in the file"
        )
    return weights


def _is_square(pos_embed: Tensor) -> bool:
    return pos_embed.ndim == 3 and round((pos_embed.shape[1] - 1) ** 0.5) ** 2 == pos_embed.shape[1] - 1 > 0


def _tensors(path: Path, data: bytes) -> Mapping[str, Tensor]:
    try:
        found: Any = (
            load(data)
            if path.suffix == ".safetensors"
            else torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        )
    except SafetensorError as error:
        raise ValueError(f"{path}: is no safetensors file: {error}; set recipe.initial.path") from error
    except Exception as error:  # whatever a damaged file makes of the unpickler
        raise ValueError(
            f"{path}: is no file of tensors only: {str(error).splitlines()[0]}; save its state_dict alone"
        ) from error
    for key in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
            break
    if not isinstance(found, Mapping) or not found or not all(isinstance(x, Tensor) for x in found.values()):
        raise ValueError(f"{path}: holds no table of tensors, alone or under {', '.join(_WRAPPERS)}")
    return found
