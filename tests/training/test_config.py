import pytest
import torch
from pydantic import ValidationError

from conf import ConfigError, digest, load
from training.config import Recipe, Runtime, TrainConfig, device, resolve

BASE = {"steps": 10, "batch_size_global": 4}


def test_the_demo_recipe_is_read_and_a_bad_key_is_named():
    settings = load(TrainConfig, "conf/training/demo.yaml", ["recipe.steps=50"])
    assert settings.recipe.steps == 50
    with pytest.raises(ConfigError, match=r"unknown key 'recipe\.stepz'; did you mean 'recipe\.steps'"):
        load(TrainConfig, "conf/training/demo.yaml", ["recipe.stepz=1"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"crops": {"global_size": 225}}, "not a multiple of model.patch_size"),
        ({"losses": {"dino_weight": 0.0, "ibot_weight": 0.0}}, "no teacher to follow"),
        ({"batch_size_global": 1}, "KoLeo needs a neighbour"),
        ({"heads": {"ibot": {}}, "losses": {"ibot_weight": 0.0}}, "would never learn"),
        ({"masking": {"probability": 0.0}}, "needs masked crops"),
        ({"masking": {"ratio": (0.5, 0.1)}}, "lowest <= highest"),
        ({"crops": {"global_scale": (1.0, 0.3)}}, "global_scale .* lowest <= highest"),
        ({"teacher": {"temp": (0.0, 0.07)}}, r"teacher\.temp\.0"),
        ({"teacher": {"momentum": (0.9, 1.5)}}, r"teacher\.momentum\.1"),
        ({"optimiser": {"weight_decay": (-0.1, 0.4)}}, r"optimiser\.weight_decay\.0"),
        ({"optimiser": {"base_lr": float("inf")}}, r"optimiser\.base_lr"),
        ({"optimiser": {"warmup_steps": 11}}, "must not exceed steps"),
        ({"model": {"image_size": 100}}, "not a multiple of patch_size"),
    ],
)
def test_a_combination_that_cannot_work_is_refused_with_the_reason(values, message):
    with pytest.raises(ValidationError, match=message):
        Recipe.model_validate(BASE | values)


def test_automatic_precision_is_decided_before_the_digest():
    auto = Recipe.model_validate(BASE | {"precision": "auto"})
    decided = resolve(auto, torch.device("cpu"))
    assert decided.precision in ("bf16", "fp32")
    assert digest(decided) == digest(Recipe.model_validate(BASE | {"precision": decided.precision}))


def test_a_device_that_is_absent_is_refused():
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ValueError, match="no CUDA device"):
        device(Runtime(device="cuda"))
    assert device(Runtime()).type == "cpu"
