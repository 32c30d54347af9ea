"""A run starts from weights in anybody's format, and its own go there."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer as TimmTransformer
from torch import nn

from conf import entry_point
from tests.training.commands import assert_equal
from tests.training.models.test_vit import randomised
from tests.training.parity.record_transformers import RECORDED
from tests.training.small import make_release, settings
from training import export
from training.config import Architecture, Initial, Recipe
from training.initial import start_from
from training.models.formats import FORMATS
from training.models.vit import VisionTransformer
from training.phases import resized_positions
from training.train import Trainer, train

KINDS = {"plain": {}, "registers": {"num_register_tokens": 4}, "swiglu": {"ffn": "swiglu"}}
SIZE = {"arch": "vit_nano", "patch_size": 8, "image_size": 32}
HEAD = {"prototypes": 16, "hidden": 8, "bottleneck": 4}


def named(path: Path, **keys) -> Initial:
    return Initial(path=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest(), **keys)


def networks(**architecture) -> list[nn.ModuleDict]:
    torch.manual_seed(1)
    return [nn.ModuleDict({"backbone": VisionTransformer(Architecture(**SIZE | architecture))}) for _ in range(2)]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_format_is_recognised_and_gives_the_same_features(tmp_path, form, kind):
    model = randomised(Architecture(**SIZE | KINDS[kind]))
    model.mask_token.data.zero_()  # timm has none
    theirs = {name: value.half().contiguous() for name, value in FORMATS[form].theirs(model.state_dict()).items()}
    save_file(theirs, tmp_path / "x.safetensors")
    torch.save({"state_dict": theirs, "epoch": 3}, tmp_path / "x.pth")
    for name in ("x.safetensors", "x.pth"):
        found = networks(**KINDS[kind])
        start_from(named(tmp_path / name), found)
        for network in found:
            images = torch.randn(2, 3, 32, 32)
            got, expected = network["backbone"].eval()(images), model(images)
            torch.testing.assert_close(got.cls_token, expected.cls_token, rtol=2e-2, atol=2e-2)
            assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_positions_come_to_the_grid_of_the_recipe(tmp_path):
    model = randomised(Architecture(**SIZE | {"image_size": 48}))
    save_file(model.state_dict(), tmp_path / "x.safetensors")
    (network, _) = found = networks()
    start_from(named(tmp_path / "x.safetensors"), found)
    torch.testing.assert_close(network["backbone"].pos_embed, resized_positions(model.pos_embed, 17))
    torch.testing.assert_close(network["backbone"].norm.weight, model.norm.weight)


def with_heads(**heads) -> Recipe:
    values = settings(Path(), Path()).recipe.model_dump() | {"heads": {"dino": HEAD, "ibot": HEAD} | heads}
    return Recipe.model_validate(values)


def test_a_teacher_checkpoint_of_upstreams_brings_its_heads(tmp_path):
    trained = Trainer(with_heads()).model.teacher
    for parameter in trained.parameters():
        nn.init.normal_(parameter, std=0.05)
    chunked = {name.replace("blocks.", "blocks.0."): value for name, value in trained.state_dict().items()}
    file = tmp_path / "teacher_checkpoint.pth"
    torch.save({"teacher": chunked}, file)
    for heads in (True, False):
        recipe = with_heads().model_copy(update={"initial": named(file, heads=heads)})
        model = Trainer(recipe).model
        for network in (model.student, model.teacher):
            for name, value in network.state_dict().items():
                assert torch.equal(value, trained.state_dict()[name]) == (heads or name.startswith("backbone.")), name
    with pytest.raises(ValueError, match=r"dino_head has 'mlp.4.weight' \[4, 8\], the recipe's model \[6, 8\]"):
        start_from(named(file, heads=True), [Trainer(with_heads(dino=HEAD | {"bottleneck": 6})).model.student])


@pytest.mark.parametrize(
    ("change", "architecture", "message"),
    [
        ({}, {"arch": "vit_small"}, r"'cls_token' \[1, 1, 192\], the recipe's model \[1, 1, 384\]; set recipe.model"),
        ({}, {"num_register_tokens": 2}, r"has no tensor 'register_tokens' \[1, 2, 192\]"),
        ({}, {"arch": "vit_tiny"}, r"has no tensor 'blocks.6.norm1.weight' \[192\]"),
        ({}, {"patch_size": 16}, r"'patch_embed.proj.weight' \[192, 3, 8, 8\], the recipe's model \[192, 3, 16, 16\]"),
        ({"head.bias": torch.zeros(5)}, {}, r"has a tensor 'head.bias' \[5\], which the recipe's model has not"),
        ({"pos_embed": torch.zeros(1, 16, 192)}, {}, r"'pos_embed' \[1, 16, 192\], the recipe's model \[1, 17, 192\]"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_first_tensor(tmp_path, change, architecture, message):
    save_file(randomised(Architecture(**SIZE)).state_dict() | change, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=message):
        start_from(named(tmp_path / "x.safetensors"), networks(**architecture))


class Hostile:
    def __reduce__(self):
        return print, ("code ran",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"patch_embed.proj.weight": Hostile()}, "no file of tensors only"),
        ([torch.zeros(1)], "holds no table of tensors"),
        ({"model": {"cls_token": 3}}, "holds no table of tensors"),
        ({"blocks.0.norm1.weight": torch.zeros(1)}, "no DINOv2 backbone in the format 'timm'"),
        ({"embeddings.cls_token": torch.zeros(1), "x": torch.zeros(1)}, "format 'transformers': 'x' is no tensor"),
    ],
)
def test_a_file_of_something_else_is_refused_and_runs_nothing(tmp_path, capsys, content, message):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=message):
        start_from(named(tmp_path / "x.pth"), networks())
    assert "code ran" not in capsys.readouterr().out


def test_a_damaged_file_and_another_hash_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"\xff" * 40)
    with pytest.raises(ValueError, match="no safetensors file"):
        start_from(named(path), networks())
    with pytest.raises(ValueError, match=r"its SHA-256 is \w{64}, not 0{64} as recipe.initial.sha256 says"):
        start_from(Initial(path=str(path), sha256="0" * 64), networks())
    save_file(randomised(Architecture(**SIZE)).state_dict(), path)
    with pytest.raises(ValueError, match=r"holds backbone, no dino_head; set recipe\.initial\.heads=false"):
        start_from(named(path, heads=True), [Trainer(with_heads()).model.student])


def test_a_phase_goes_on_from_the_one_before():
    initial = {"path": "x.pth", "sha256": "0" * 64}
    with pytest.raises(ValueError, match=r"phases\.0\.initial: a phase goes on"):
        Recipe.model_validate({"steps": 2, "batch_size_global": 4, "phases": [{"steps": 1, "initial": initial}]})
    recipe = Recipe.model_validate({"steps": 2, "batch_size_global": 4, "initial": initial, "phases": [{"steps": 1}]})
    assert recipe.phases[0].initial is None


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run that went on from random weights in timm's names, stopped and resumed without their file."""
    folder = tmp_path_factory.mktemp("initial")
    release, file = make_release(folder / "release"), folder / "timm.safetensors"
    torch.manual_seed(5)
    save_file(FORMATS["timm"].theirs(VisionTransformer(Architecture(**SIZE)).state_dict()), file)
    made = [
        settings(release, folder / name, {"initial": named(file).model_dump()}, {"keep_checkpoints": 5})
        for name in ("whole", "resumed")
    ]
    train(made[0])
    shutil.copytree(folder / "whole", folder / "resumed")
    for name in ("model.json", "checkpoints/step_00000006"):
        path = folder / "resumed" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    file.unlink()
    train(made[1])
    assert_equal(folder / "whole", folder / "resumed")
    return folder / "whole"


def command(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["export", *arguments])
    with pytest.raises(SystemExit) as ended:
        entry_point(export.main)
    return int(ended.value.code or 0)


def test_a_resumed_run_needs_no_file_and_a_finished_one_goes_to_timm(run, tmp_path, monkeypatch, capsys):
    out = tmp_path / "timm.pth"
    assert command(monkeypatch, str(run), "--format", "timm", "--out", str(out)) == 0
    assert capsys.readouterr().out.splitlines() == [str(out), f"SHA-256 {named(out).sha256}"]
    keys = {"embed_dim": 192, "depth": 6, "num_heads": 3, "init_values": 1.0, "num_classes": 0}
    peer = TimmTransformer(32, 8, **keys).eval()
    timm.models.load_checkpoint(peer, str(out))
    model, _ = export.load_backbone(run)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = peer.forward_features(images)
        torch.testing.assert_close(model(images).cls_token, expected[:, 0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model(images).patch_tokens, expected[:, 1:], rtol=1e-5, atol=1e-5)


def test_a_finished_run_goes_to_transformers_as_a_folder(run, tmp_path):
    file, sha256 = export.export(run, "transformers", tmp_path / "folder")
    assert (file.name, sha256) == ("model.safetensors", named(file).sha256)
    assert set(load_file(file)) == set(json.loads(RECORDED.read_text())["plain"]["shapes"])  # also six blocks
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert (config["model_type"], config["hidden_size"], config["image_size"]) == ("dinov2", 192, 32)
    pictures = json.loads((tmp_path / "folder" / "preprocessor_config.json").read_text())
    assert (pictures["size"], pictures["crop_size"]["width"]) == ({"shortest_edge": 36}, 32)


def test_a_finished_run_starts_another(run, tmp_path):
    file, _ = export.export(run, "upstream", tmp_path / "pretrain.pth")
    found = networks()
    start_from(named(file), found)
    weights = load_file(run / "teacher_backbone.safetensors")
    assert all(torch.equal(found[0]["backbone"].state_dict()[name], value) for name, value in weights.items())


def test_what_cannot_be_exported_is_told(tmp_path, monkeypatch, capsys, run):
    assert command(monkeypatch, str(tmp_path), "--format", "timm", "--out", "x.pth") == 2
    assert command(monkeypatch, str(run), "--format", "timm", "--out", "x.bin") == 2
    assert "name a file that ends in .safetensors or .pth" in capsys.readouterr().err
