"""Record what the transformers library's DINOv2 computes: ``python -m tests.training.parity.record_transformers``.

Writes ``transformers.json`` beside this file: the names and shapes of the weights in the library's files, which
``fixed.py`` fills (in memory, versions of it name them differently), and the outputs for images of the size that the
positions are for and, with registers, of another. (Without registers the library interpolates positions in its own
way, which is not upstream's.)
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.training.parity.fixed import fill_tensor, fixed
from tests.training.parity.record import rounded

RECORDED = Path(__file__).with_name("transformers.json")
MODELS = {  # gated feed-forward, registers
    "plain": (False, 0),
    "gated": (True, 0),
    "registers": (False, 4),
    "gated_registers": (True, 4),
}
GRID_SIDE, OTHER_SIDE = 56, 42


def main() -> None:
    from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    found: dict[str, Any] = {}
    for name, (gated, registers) in MODELS.items():
        size = {"hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 3, "image_size": GRID_SIDE}
        size |= {"patch_size": 14, "use_swiglu_ffn": gated}
        if registers:
            model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**size, num_register_tokens=registers))
        else:
            model = Dinov2Model(Dinov2Config(**size))
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            file = Path(folder) / "model.safetensors"
            weights = {key: fill_tensor(key, value) for key, value in load_file(file).items()}
            save_file(weights, file, {"format": "pt"})
            model = type(model).from_pretrained(folder).eval()
        found[name] = {"shapes": {key: list(value.shape) for key, value in weights.items()}}
        for side in (GRID_SIDE, OTHER_SIDE) if registers else (GRID_SIDE,):
            with torch.no_grad():
                out = model(pixel_values=fixed("images", 2, 3, side, side)).last_hidden_state
            found[name][str(side)] = rounded([out[:, 0, :24], out[:, -1, -24:]])
    RECORDED.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
