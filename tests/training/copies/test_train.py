import hashlib
import json
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from safetensors import safe_open

import conf
from tests.training.copies.small import config, write_pictures
from training.copies.config import CopiesConfig, Weights
from training.copies.data import Steps, read_pools
from training.copies.network import TrainedNetwork
from training.copies.train import make_optimiser, schedule, train, update


def test_two_steps_write_weights_that_say_how_they_were_made(tmp_path):
    write_pictures(tmp_path, 6)
    settings = config(tmp_path)
    path = train(settings)
    with safe_open(path, "pt") as file:
        made = json.loads(file.metadata()["copy_descriptor"])
        shape = file.get_slice("projection.weight").get_shape()
    assert shape == [16, 16]
    assert made["recipe_digest"] == conf.digest(settings.recipe)
    assert made["pictures"] == {"photos": 6}
    assert made["size"] == 40


def test_a_continued_run_ends_with_the_same_bytes(tmp_path):
    write_pictures(tmp_path, 6)
    settings = config(tmp_path, steps=3)
    whole = train(settings).read_bytes()
    again = settings.model_copy(update={"output": str(tmp_path / "again")})
    _stop_after_first_step(again)
    assert train(again).read_bytes() == whole


def _stop_after_first_step(settings: CopiesConfig) -> None:
    import training.copies.train as module

    save = module._save

    def save_and_stop(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    module._save = save_and_stop
    try:
        with pytest.raises(KeyboardInterrupt):
            train(settings)
    finally:
        module._save = save


def test_a_folder_of_another_recipe_is_refused(tmp_path):
    write_pictures(tmp_path, 6)
    train(config(tmp_path))
    with pytest.raises(ValueError, match="another recipe"):
        train(config(tmp_path, seed=1))


def test_repeated_updates_pull_the_copies_of_one_step_together(tmp_path):
    write_pictures(tmp_path, 12)
    settings = config(tmp_path, sources_per_step=8)
    torch.manual_seed(0)
    network = TrainedNetwork(settings.recipe.network)
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3)
    views, contents = Steps(read_pools(settings.data), settings.recipe)[0]
    seen = [update(network, optimiser, views, contents, settings.recipe) for _ in range(40)]
    assert seen[-1]["contrastive"] < 0.5 * seen[0]["contrastive"]
    assert seen[-1]["found"] > 0.8


def test_frozen_parameters_stay_as_they_are_and_the_others_move(tmp_path):
    write_pictures(tmp_path, 6)
    settings = config(tmp_path)
    network = TrainedNetwork(settings.recipe.network.model_copy(update={"frozen": ["conv1", "layer1"]}))
    before = {name: tensor.clone() for name, tensor in network.descriptor.state_dict().items()}
    views, contents = Steps(read_pools(settings.data), settings.recipe)[0]
    optimiser = make_optimiser(network, settings.recipe)
    for group in optimiser.param_groups:
        group["lr"] = group["peak_lr"]
    update(network, optimiser, views, contents, settings.recipe)
    moved = {name for name, tensor in network.descriptor.state_dict().items() if not torch.equal(tensor, before[name])}
    assert not any("conv1.0" in name or "layer1" in name for name in moved)
    assert {"projection.weight", "backbone.layer4.0.conv2.weight"} <= moved


def test_training_starts_from_the_given_weights(tmp_path):
    settings = config(tmp_path)
    backbone = timm.create_model("resnet10t", num_classes=0, **settings.recipe.network.options)
    torch.save(backbone.state_dict(), tmp_path / "first.pth")
    digest = hashlib.sha256((tmp_path / "first.pth").read_bytes()).hexdigest()
    initial = Weights(path=str(tmp_path / "first.pth"), sha256=digest)
    network = TrainedNetwork(settings.recipe.network.model_copy(update={"initial": initial}))
    pictures = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = backbone.eval().forward_features(pictures)
        assert torch.allclose(network.descriptor.backbone(pictures), expected, atol=1e-4)


def test_initial_weights_that_run_code_are_refused(tmp_path):
    torch.save({"a": Path("x")}, tmp_path / "first.pth")
    digest = hashlib.sha256((tmp_path / "first.pth").read_bytes()).hexdigest()
    initial = Weights(path=str(tmp_path / "first.pth"), sha256=digest)
    with pytest.raises(ValueError, match="no table of tensors"):
        TrainedNetwork(config(tmp_path).recipe.network.model_copy(update={"initial": initial}))


def test_the_learning_rate_rises_then_falls_to_zero(tmp_path):
    recipe = config(tmp_path, steps=100, warmup_steps=10).recipe
    rates = [schedule(recipe, step) for step in range(101)]
    assert rates[9] == max(rates) == 1
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(0, abs=1e-12)


def test_the_shipped_recipe_is_valid():
    settings = conf.load(CopiesConfig, "conf/training/copy_descriptor.yaml")
    assert settings.recipe.network.dim == 512


def test_weights_are_half_precision_and_finite(tmp_path):
    write_pictures(tmp_path, 6)
    tensors = safetensors.torch.load_file(train(config(tmp_path)))
    assert all(tensor.dtype == torch.float16 and torch.isfinite(tensor).all() for tensor in tensors.values())
