"""Records the golden trace: ``python -m tests.training.golden``, after a change that is meant to change the numbers."""

import json
import tempfile
from pathlib import Path

from tests.training.commands import rows
from tests.training.small import make_release, settings
from training.train import train

TRACE = Path(__file__).with_name("golden_trace.json")
RECIPE = {
    "steps": 50,
    "model": {
        "arch": "vit_nano",
        "patch_size": 8,
        "image_size": 32,
        "layer_scale": 1.0,
        "drop_path": 0.2,
        "num_register_tokens": 1,
    },
    "heads": {
        "dino": {"prototypes": 48, "hidden": 32, "bottleneck": 16},
        "ibot": {"prototypes": 32, "hidden": 32, "bottleneck": 16},
    },
    "optimiser": {"base_lr": 4e-3, "warmup_steps": 10, "freeze_last_layer_steps": 5},
    "teacher": {"momentum": (0.9, 1.0), "temp_warmup_steps": 20},
}


def trace(folder: Path) -> dict[str, list[float]]:
    """The losses and gradient norms of 50 steps on made-up pictures."""
    release = make_release(folder / "release")
    train(settings(release, folder / "run", RECIPE))
    found = rows(folder / "run")
    return {key: [row[key] for row in found] for key in found[0] if key.startswith(("loss", "grad_norm"))}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        recorded = {key: [float(f"{value:.7g}") for value in values] for key, values in trace(Path(folder)).items()}
    TRACE.write_text(json.dumps(recorded, indent=1) + "\n")
    print(f"{TRACE}: {len(recorded['loss'])} steps")
