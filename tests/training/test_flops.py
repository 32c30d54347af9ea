"""The counted operations beside those that torch sees."""

import pytest
from torch.utils.flop_counter import FlopCounterMode

from tests.training.small import make_release, settings
from training.config import Architecture
from training.data.loader import Batches
from training.data.release import Release
from training.models.flops import backbone_flops, step_flops
from training.schedules import at
from training.train import Trainer

HEAD = {"prototypes": 32, "hidden": 32, "bottleneck": 16}
SMALL = {"arch": "vit_nano", "patch_size": 8, "image_size": 32, "drop_path": 0.25}
RECIPES = {
    "tied": {"model": SMALL},
    "swiglu, registers, untied": {
        "model": {**SMALL, "ffn": "swiglu", "num_register_tokens": 2, "drop_path": 0.0},
        "heads": {"dino": HEAD, "ibot": {**HEAD, "prototypes": 200}},
    },
    "no local crops": {"model": SMALL, "crops": {"global_size": 48, "local_size": 16, "num_local": 0}},
    "patches alone": {"model": SMALL, "losses": {"dino_weight": 0.0}},
    "classes alone": {"model": SMALL, "losses": {"ibot_weight": 0.0}},
}


@pytest.mark.parametrize("name", RECIPES)
def test_the_counted_step_is_the_one_that_runs(tmp_path, name):
    recipe = settings(tmp_path, tmp_path, {"masking": {"exact_count": True}, **RECIPES[name]}).recipe
    batch = Batches(Release(make_release(tmp_path / "release")), recipe)[0]
    trainer = Trainer(recipe)
    counter = FlopCounterMode(display=False)
    with counter:
        trainer.update(batch, at(recipe, 0))
    counts = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
    # attention's and the prototypes' scores are computed again in backward, which is no work of the model's
    assert counter.get_total_flops() == pytest.approx(step_flops(recipe), rel=0.04), counts


@pytest.mark.parametrize(("size", "tokens", "giga_macs"), [(224, 257, 81.1), (518, 1370, 507.1)])
def test_published_counts(size, tokens, giga_macs):
    """What timm's model cards say of ViT-L/14 at 224 and 518 px."""
    model = Architecture(arch="vit_large", patch_size=14, image_size=size)
    assert backbone_flops(model, {size: 1}, tokens) / 2e9 == pytest.approx(giga_macs, rel=0.01)
