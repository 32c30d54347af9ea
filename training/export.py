"""A finished run's backbone for others to load: ``python -m training.export RUN --format FORMAT --out PATH``."""

import argparse
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from conf import entry_point
from training.atomic import write_atomically
from training.config import Architecture
from training.models.formats import FORMATS
from training.models.vit import SIZES
from training.pretrained import load_backbone

EXAMPLE = """examples:
  python -m training.export runs/demo/training --format timm --out demo_timm.safetensors
  python -m training.export runs/demo/training --format upstream --out demo_pretrain.pth
  python -m training.export runs/demo/training --format transformers --out demo_transformers/

timm: VisionTransformer of the same size with init_values, then timm.models.load_checkpoint(model, FILE).
transformers: AutoModel.from_pretrained(FOLDER). upstream: model.load_state_dict(torch.load(FILE)).
Each also starts another run: recipe.initial.path=FILE recipe.initial.sha256=WHAT_THIS_COMMAND_SAYS.
"""


def main() -> int:
    """Parse, convert, write, and say the hash."""
    parser = argparse.ArgumentParser(
        prog="python -m training.export",
        description="Write the teacher's backbone of a finished run in the names of another library.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", help="a run folder of training.launch, or its model.json")
    parser.add_argument("--format", required=True, choices=list(FORMATS), help="whose names")
    parser.add_argument("--out", required=True, help="a .safetensors or .pth file; for transformers a folder")
    arguments = parser.parse_args()
    file, sha256 = export(arguments.run, arguments.format, Path(arguments.out))
    print(f"{file}\nSHA-256 {sha256}")
    return 0


def export(run: str | Path, form: str, out: Path) -> tuple[Path, str]:
    """Write a run's teacher; returns the file of the weights and its SHA-256.

    Args:
        run: a run folder or its ``model.json``.
        form: a key of :data:`FORMATS`.
        out: a file, ``.safetensors`` or ``.pth``; for transformers a folder, which gets its settings too.

    Raises:
        ValueError: the run is not finished or damaged, or ``out`` has another suffix.
    """
    model, info = load_backbone(run)
    tensors = FORMATS[form].theirs(model.state_dict())
    if form == "transformers":
        out.mkdir(parents=True, exist_ok=True)
        settings = {"config": _config(model.architecture), "preprocessor_config": _preprocessor(info["input"])}
        for name, values in settings.items():
            write_atomically(out / f"{name}.json", (json.dumps(values, indent=2) + "\n").encode())
        out = out / "model.safetensors"
    data = _serialised(tensors, out)
    write_atomically(out, data)
    return out, hashlib.sha256(data).hexdigest()


def _serialised(tensors: dict[str, Tensor], out: Path) -> bytes:
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    if out.suffix == ".safetensors":
        return save(tensors, {"format": "pt"})
    if out.suffix == ".pth":
        buffer = io.BytesIO()
        torch.save(tensors, buffer)
        return buffer.getvalue()
    raise ValueError(f"--out {out}: name a file that ends in .safetensors or .pth")


def _config(architecture: Architecture) -> dict[str, Any]:
    """The ``config.json`` of transformers' DINOv2."""
    dim, depth, num_heads = SIZES[architecture.arch]
    registers = architecture.num_register_tokens
    config = {
        "architectures": ["Dinov2WithRegistersModel" if registers else "Dinov2Model"],
        "model_type": "dinov2_with_registers" if registers else "dinov2",
        "hidden_size": dim,
        "num_hidden_layers": depth,
        "num_attention_heads": num_heads,
        "mlp_ratio": 4,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "image_size": architecture.image_size,
        "patch_size": architecture.patch_size,
        "num_channels": architecture.in_channels,
        "qkv_bias": True,
        "use_swiglu_ffn": architecture.ffn == "swiglu",
    }
    return config | ({"num_register_tokens": registers} if registers else {})


def _preprocessor(images: dict[str, Any]) -> dict[str, Any]:
    """Its ``preprocessor_config.json``: the short side to 8/7 of the input's size (256 for 224), then the centre."""
    size = int(images["size"])
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size * 8 // 7},
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(images["mean"]),
        "image_std": list(images["std"]),
    }


if __name__ == "__main__":
    entry_point(main)
