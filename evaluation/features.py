"""Features once: every image is decoded a single time and shown to every extractor."""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import normalize
from torchvision.transforms import v2
from tqdm import tqdm

from evaluation.config import Protocol, Runtime
from training.models.vit import VisionTransformer
from training.pretrained import build, load_backbone

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Normalisation(NamedTuple):
    """Mean and standard deviation of the three channels of images in 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Extractor:
    """Something that turns images into features.

    Attributes:
        name: how the records call it.
        sha256: of its weights; None where it has none.
        seed: of its initialisation; None where nothing is random.
        features: (B, 3, H, W) normalised images -> (B, D).
    """

    name: str
    sha256: str | None
    seed: int | None
    features: Callable[[Tensor], Tensor]


def trained(path: str, crop: int, device: str) -> tuple[Extractor, VisionTransformer, Normalisation]:
    """The trained backbone's final CLS token, the backbone itself, and how it wants its images normalised.

    Raises:
        ValueError: there is no finished model at ``path``, it takes no RGB, or its patches do not fit the crop.
    """
    model, info = load_backbone(path)
    if (channels := model.architecture.in_channels) != 3:
        raise ValueError(f"model = {path!r}: takes pictures of {channels} channels; an evaluation shows it RGB alone")
    patch = model.architecture.patch_size
    if crop % patch:
        near = max(patch, round(crop / patch) * patch)
        raise ValueError(f"protocol.crop = {crop}: must be a multiple of the model's patch size {patch}; try {near}")
    normalisation = Normalisation(tuple(info["input"]["mean"]), tuple(info["input"]["std"]))
    return _network("trained", info["weights_sha256"], None, model, device), model, normalisation


def random_init(like: VisionTransformer, seed: int, device: str) -> Extractor:
    """The same architecture with fresh weights: what the training added is the difference to this.

    The layer scale starts at 1. Training's 1e-5 would leave the CLS token blind to the image in float32, and the
    baseline would be chance.
    """
    model = build(like.architecture.model_copy(update={"layer_scale": 1.0}), seed)
    return _network("random_init", weights_sha256(model), seed, model, device)


def raw_pixels() -> Extractor:
    """The network's own input as a vector: what no learning at all gives."""
    return Extractor("raw_pixels", None, None, lambda images: images.flatten(1))


def weights_sha256(model: VisionTransformer) -> str:
    """SHA-256 (hex) of a model's weights as a safetensors file, as ``model.json`` of a training names them."""
    return hashlib.sha256(save({name: tensor.contiguous() for name, tensor in model.state_dict().items()})).hexdigest()


def _network(name: str, sha256: str, seed: int | None, model: VisionTransformer, device: str) -> Extractor:
    model = model.eval().to(device)
    return Extractor(name, sha256, seed, lambda images: model(images).cls_token)


def extract(
    paths: Sequence[Path],
    extractors: Sequence[Extractor],
    normalisation: Normalisation,
    protocol: Protocol,
    runtime: Runtime,
    label: str,
) -> dict[str, tuple[Tensor, float]]:
    """Features of every image by every extractor, in one pass over the files.

    Args:
        paths: image files.
        extractors: run in turn on each batch.
        normalisation: of every channel, the same for all extractors.
        protocol: resize, crop, and the dtype that the extractors compute in.
        runtime: device and batch size.
        label: of the progress bar.

    Returns:
        Extractor name -> ((n, D) L2-normalised float32, seconds spent in the extractor).

    Raises:
        ValueError: a file cannot be decoded.
    """
    parts: dict[str, list[Tensor]] = {e.name: [] for e in extractors}
    seconds = dict.fromkeys(parts, 0.0)
    dtype = DTYPES[protocol.dtype]
    with torch.inference_mode(), tqdm(total=len(paths), desc=label, unit="image", disable=None) as bar:
        for images in _batches(paths, normalisation, protocol, runtime.batch_size):
            batch = images.to(runtime.device)
            for extractor in extractors:
                start = time.perf_counter()
                with torch.autocast(batch.device.type, dtype=dtype, enabled=dtype is not torch.float32):
                    features = extractor.features(batch)
                parts[extractor.name].append(normalize(features.float(), dim=1))
                seconds[extractor.name] += time.perf_counter() - start
            bar.update(len(images))
    return {name: (torch.cat(features), seconds[name]) for name, features in parts.items()}


def _batches(paths: Sequence[Path], normalisation: Normalisation, protocol: Protocol, size: int) -> Iterator[Tensor]:
    transform = v2.Compose(
        [
            v2.Resize(protocol.resize, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.CenterCrop(protocol.crop),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(normalisation.mean, normalisation.std),
        ]
    )
    for start in range(0, len(paths), size):
        yield torch.stack([transform(_decode(path)) for path in paths[start : start + size]])


def _decode(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path}: cannot be decoded ({error}); an evaluation skips no image: replace or remove the file"
        ) from error
