"""A backbone from a finished run, its hash verified; or a random one of the same shape, to compare with."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pydantic
import torch
from safetensors.torch import load

from training.config import Architecture
from training.models.vit import VisionTransformer


def build(architecture: Architecture, seed: int = 0) -> VisionTransformer:
    """A randomly initialised backbone in evaluation mode; the caller's random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VisionTransformer(architecture).eval()


def load_backbone(path: str | Path) -> tuple[VisionTransformer, dict[str, Any]]:
    """The teacher's backbone of a finished run, in evaluation mode.

    Args:
        path: a ``model.json`` of ``python -m training.launch``, or the run folder that holds it.

    Returns:
        The model, and the contents of ``model.json``: among them ``input`` (size, mean, std of the images),
        ``steps``, ``recipe_digest`` and ``release``.

    Raises:
        ValueError: the run is not finished, the file is not ours, or the weights do not match their hash.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "model.json"
    if not file.is_file():
        raise ValueError(f"{file}: no such file; a run writes it when it is finished, so run training.launch first")
    try:
        info = json.loads(file.read_text())
        architecture = Architecture.model_validate(info["architecture"])
        name, expected = str(info["weights"]), str(info["weights_sha256"])
    except (pydantic.ValidationError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: is not a model.json of training.launch: {error}") from error
    if Path(name).name != name:
        raise ValueError(f"{file}: weights = {name!r} must be a file beside it, not a path")
    data = verified(file.with_name(name), expected, f"{file.name} says; copy it again")
    model = build(architecture)
    model.load_state_dict(load(data))
    return model, info


def verified(path: Path, sha256: str, whose: str) -> bytes:
    """The bytes of a file, read once, so that what was hashed is what is used.

    Args:
        path: of the file.
        sha256: expected, hex.
        whose: for the message, who expects it and what to do.

    Raises:
        ValueError: the hash is another.
        OSError: the file cannot be read.
    """
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise ValueError(f"{path}: its SHA-256 is {found}, not {sha256} as {whose}")
    return data
