"""Generated pictures, and a recipe small enough for a test."""

from pathlib import Path

import cv2
import numpy as np

from training.copies.config import CopiesConfig


def write_pictures(root: Path, num: int) -> None:
    """Blocks of random colour, 128 x 160."""
    (root / "photos").mkdir()
    (root / "held.tsv").write_text("query\treference\n")
    for i in range(num):
        blocks = np.random.default_rng(i).integers(0, 256, (8, 10, 3), dtype=np.uint8)
        cv2.imwrite(str(root / f"photos/p{i:02}.png"), cv2.resize(blocks, (160, 128), interpolation=cv2.INTER_CUBIC))


def config(root: Path, **recipe: object) -> CopiesConfig:
    """Two steps on the pictures of :func:`write_pictures`."""
    edits = {"size": 32, "least_area": 0.3, "easy": 0.5, "mild": 0.5, "tiles": 0.3, "mixed": 0.3}
    network = {"backbone": "resnet10t", "options": {"channels": [8, 8, 16, 16], "stem_width": 8}, "dim": 16}
    return CopiesConfig.model_validate(
        {
            "output": str(root / "run"),
            "data": {"root": str(root), "folders": [{"path": "photos", "share": 1.0}], "hold_out": ["held.tsv"]},
            "recipe": {
                "seed": 0,
                "steps": 2,
                "sources_per_step": 4,
                "precision": "fp32",
                "network": network,
                "edits": edits,
                "temperature": 0.1,
                "entropy_weight": 1.0,
                "lr": 2e-3,
                "projection_lr": 2e-3,
                "weight_decay": 0.01,
                "warmup_steps": 1,
                "whitening_steps": 2,
                **recipe,
            },
            "descriptor": {"size": 40},
            "runtime": {"workers": 0, "threads": 1, "log_every_steps": 1, "checkpoint_every_steps": 1},
        }
    )
