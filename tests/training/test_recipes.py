"""Every recipe that ships, and those of upstream's names beside what its configurations say (``parity/record.py``)."""

import json
from pathlib import Path

import pytest
import torch

from conf import load
from tests.training.parity.record import EPOCHS, RECIPES, RECORDED
from training.config import Recipe, TrainConfig
from training.models.vit import VisionTransformer
from training.phases import phases
from training.schedules import at

FOLDER = Path(__file__).parents[2] / "conf" / "training"
OURS = sorted(path.stem for path in FOLDER.glob("*.yaml") if "-m training.launch" in path.read_text())
PUBLIC = json.loads(RECORDED.read_text())["recipes"]


def read(name: str) -> TrainConfig:
    return load(TrainConfig, FOLDER / f"{name}.yaml")


@pytest.mark.parametrize("name", OURS)
def test_a_recipe_is_read_and_its_schedules_reach_their_ends(name):
    settings = read(name)
    processes = settings.runtime.processes * settings.runtime.slurm.nodes
    looked_at = settings.runtime.probe and settings.runtime.probe.size
    for phase in phases(settings.recipe):
        recipe = phase.recipe
        assert recipe.batch_size_global % processes == 0
        with torch.device("meta"):
            model = VisionTransformer(recipe.model)
        # positions are interpolated in no step, unless the pictures that a probe looks at have another size
        assert model.grid == (looked_at or recipe.crops.global_size) // recipe.model.patch_size
        last = at(recipe, recipe.steps - 1)
        assert last.momentum == pytest.approx(recipe.teacher.momentum[1], abs=1e-4)
        assert last.teacher_temp == recipe.teacher.temp[1]
        assert last.lr == last.last_layer_lr < 2 * recipe.optimiser.min_lr + 1e-3 * recipe.optimiser.base_lr


def named_as_there(recipe: Recipe) -> dict[str, object]:
    """Ours in upstream's keys."""
    epoch, optimiser, heads, crops = 1250, recipe.optimiser, recipe.heads, recipe.crops
    of_heads = {"dino": heads.dino, "ibot": heads.ibot or heads.dino}
    return {
        "student.arch": recipe.model.arch,
        "student.patch_size": recipe.model.patch_size,
        "student.drop_path_rate": recipe.model.drop_path,
        "student.layerscale": recipe.model.layer_scale,
        "student.ffn_layer": {"mlp": "mlp", "swiglu": "swiglufused"}[recipe.model.ffn],
        "student.num_register_tokens": recipe.model.num_register_tokens,
        **{f"{name}.head_n_prototypes": head.prototypes for name, head in of_heads.items()},
        **{f"{name}.head_hidden_dim": head.hidden for name, head in of_heads.items()},
        **{f"{name}.head_bottleneck_dim": head.bottleneck for name, head in of_heads.items()},
        "ibot.separate_head": heads.ibot is not None,
        "dino.loss_weight": recipe.losses.dino_weight,
        "dino.koleo_loss_weight": recipe.losses.koleo_weight,
        "ibot.loss_weight": recipe.losses.ibot_weight,
        "ibot.mask_sample_probability": recipe.masking.probability,
        "ibot.mask_ratio_min_max": list(recipe.masking.ratio),
        "train.centering": {"sinkhorn": "sinkhorn_knopp", "softmax": "centering"}[recipe.losses.centering],
        "crops.global_crops_size": crops.global_size,
        "crops.local_crops_size": crops.local_size,
        "crops.local_crops_number": crops.num_local,
        "crops.global_crops_scale": list(crops.global_scale),
        "crops.local_crops_scale": list(crops.local_scale),
        "optim.epochs": recipe.steps / epoch,
        "optim.warmup_epochs": optimiser.warmup_steps / epoch,
        "optim.base_lr": optimiser.base_lr,
        "optim.min_lr": optimiser.min_lr,
        "optim.clip_grad": optimiser.clip_norm,
        "optim.layerwise_decay": optimiser.layer_decay,
        "optim.patch_embed_lr_mult": optimiser.patch_embed_lr,
        "optim.freeze_last_layer_epochs": optimiser.freeze_last_layer_steps / epoch,
    }


@pytest.mark.parametrize("name", RECIPES)
def test_upstreams_settings(name):
    settings = read(name)
    there = {
        f"{section}.{key}": value
        for section, values in PUBLIC[name]["settings"].items()
        for key, value in values.items()
    }
    ours = named_as_there(settings.recipe)
    assert ours == {key: there[key] for key in ours}
    gpus = settings.runtime.slurm.nodes * settings.runtime.slurm.gpus_per_node
    assert (gpus, settings.runtime.processes) == (RECIPES[name], settings.runtime.slurm.gpus_per_node)
    assert settings.recipe.batch_size_global == gpus * there["train.batch_size_per_gpu"]
    assert settings.recipe.crops.blur == "upstream"
    assert not settings.recipe.masking.exact_count


@pytest.mark.parametrize("name", RECIPES)
def test_upstreams_schedules(name):
    recipe = read(name).recipe
    for key, expected in PUBLIC[name]["schedules"].items():
        found = [getattr(at(recipe, round(1250 * epoch)), key) for epoch in EPOCHS]
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-15), key


@pytest.mark.parametrize("name", ["vitl14", "vitg14"])
def test_the_phase_at_high_resolution_has_the_same_schedules_compressed(name):
    recipe = read(name).recipe
    (high,) = recipe.phases
    assert (high.steps, high.model.image_size, high.crops.global_size) == (10_000, 518, 518)
    assert high.optimiser.base_lr < recipe.optimiser.base_lr
    for share in (0.001, 0.05, 0.1, 0.5, 0.9):
        now, then = (at(one, round(one.steps * share)) for one in (high, recipe))
        for key in ("weight_decay", "momentum", "teacher_temp"):
            assert getattr(now, key) == pytest.approx(getattr(then, key), rel=2e-3), key
        ratio = high.optimiser.base_lr / recipe.optimiser.base_lr
        assert now.lr == pytest.approx(ratio * then.lr, rel=0.02, abs=1e-6)  # min_lr stays
