"""Features once: every image is decoded a single time and shown to every extractor."""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize
from torchvision.transforms import v2
from tqdm import tqdm

from evaluation.config import Protocol, Runtime

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as in training
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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


def trained(path: str, device: str) -> tuple[Extractor, nn.Module]:
    """The trained backbone: its final CLS token.

    Raises:
        ValueError: there is no checkpoint at ``path``.
    """
    from training.pretrained import load_backbone

    if not Path(path).exists():
        raise ValueError(f"model = {path!r}: no such file or folder; train one first or pass model=PATH")
    model, _ = load_backbone(path)
    model = model.eval().to(device)
    return Extractor("trained", weights_sha256(model), None, lambda images: cls_token(model, images)), model


def random_init(like: nn.Module, seed: int, device: str) -> Extractor:
    """The same architecture with fresh weights: what the training added is the difference to this."""
    from training.pretrained import reinitialised

    model = reinitialised(like, seed).eval().to(device)
    return Extractor("random_init", weights_sha256(model), seed, lambda images: cls_token(model, images))


def raw_pixels() -> Extractor:
    """The network's own input as a vector: what no learning at all gives."""
    return Extractor("raw_pixels", None, None, lambda images: images.flatten(1))


def cls_token(model: nn.Module, images: Tensor) -> Tensor:
    """The final CLS token after the last norm: (B, 3, H, W) -> (B, D)."""
    return model(images)


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 (hex) over name, dtype, shape and bytes of every tensor of a model, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def extract(
    paths: Sequence[Path], extractors: Sequence[Extractor], protocol: Protocol, runtime: Runtime, label: str
) -> dict[str, tuple[Tensor, float]]:
    """Features of every image by every extractor, in one pass over the files.

    Args:
        paths: image files.
        extractors: run in turn on each batch.
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
        for images in _batches(paths, protocol, runtime.batch_size):
            batch = images.to(runtime.device)
            for extractor in extractors:
                start = time.perf_counter()
                with torch.autocast(batch.device.type, dtype=dtype, enabled=dtype is not torch.float32):
                    features = extractor.features(batch)
                parts[extractor.name].append(normalize(features.float(), dim=1))
                seconds[extractor.name] += time.perf_counter() - start
            bar.update(len(images))
    return {name: (torch.cat(features), seconds[name]) for name, features in parts.items()}


def _batches(paths: Sequence[Path], protocol: Protocol, size: int) -> Iterator[Tensor]:
    transform = v2.Compose(
        [
            v2.Resize(protocol.resize, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.CenterCrop(protocol.crop),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
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
