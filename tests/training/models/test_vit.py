import pytest
import torch

from training.config import Architecture, Head
from training.models.head import DINOHead
from training.models.vit import VisionTransformer
from training.pretrained import build


def randomised(architecture: Architecture) -> VisionTransformer:
    """Weights as large as trained ones, so that every branch counts."""
    torch.manual_seed(0)
    model = VisionTransformer(architecture).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return model


@pytest.mark.parametrize(
    ("arch", "ffn", "millions"),
    [("vit_small", "mlp", 22.1), ("vit_base", "mlp", 86.6), ("vit_giant2", "swiglu", 1136.5)],
)
def test_sizes_are_the_published_ones(arch, ffn, millions):
    with torch.device("meta"):
        model = VisionTransformer(Architecture(arch=arch, ffn=ffn, patch_size=14, image_size=518))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_parameter_names_are_upstreams():
    names = set(VisionTransformer(Architecture(arch="vit_nano", num_register_tokens=1)).state_dict())
    assert {
        "cls_token",
        "pos_embed",
        "mask_token",
        "register_tokens",
        "norm.weight",
        "patch_embed.proj.weight",
    } <= names
    assert {f"blocks.5.{p}" for p in ("norm1.weight", "attn.qkv.bias", "attn.proj.weight", "ls1.gamma")} <= names
    assert {f"blocks.5.{p}" for p in ("norm2.bias", "mlp.fc1.weight", "mlp.fc2.bias", "ls2.gamma")} <= names
    head = set(DINOHead(8, Head(prototypes=4, hidden=8, bottleneck=4)).state_dict())
    assert {"mlp.0.weight", "mlp.2.weight", "mlp.4.bias", "last_layer.weight_g", "last_layer.weight_v"} <= head


@pytest.mark.parametrize("registers", [0, 2])
def test_crops_of_two_sizes_in_one_row_are_those_one_by_one(registers):
    model = randomised(Architecture(arch="vit_nano", patch_size=8, image_size=32, num_register_tokens=registers))
    images = [torch.randn(3, 3, 32, 32), torch.randn(4, 3, 16, 24)]
    masks = [torch.rand(3, 16) < 0.4, None]
    apart = [model(*group) for group in zip(images, masks, strict=True)]
    assert [model.num_tokens(group) for group in images] == [17 + registers, 7 + registers]
    expected = torch.cat((apart[0].cls_token, apart[0].patch_tokens[1, 3:5], apart[1].cls_token))
    tokens, start = 17 + registers, 3 * (17 + registers)
    patches = tokens + model.first_patch + torch.tensor([3, 4])
    places = torch.cat((torch.arange(3) * tokens, patches, start + torch.arange(4) * (7 + registers)))
    found = model.select(images, masks, places)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    direction, weights = torch.randn_like(found), list(model.parameters())[3:]
    for one, other in zip(*(torch.autograd.grad(x, weights, direction) for x in (found, expected)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_stochastic_depth_of_selected_tokens_is_that_of_all():
    model = randomised(Architecture(arch="vit_nano", patch_size=8, image_size=16, drop_path=0.5)).train()
    images = torch.randn(4, 3, 16, 16)
    found = []
    for places in (torch.arange(20), torch.tensor([0, 7, 13])):
        torch.manual_seed(3)
        found.append(model.select([images], [None], places))
    torch.testing.assert_close(found[0][[0, 7, 13]], found[1], rtol=1e-4, atol=1e-5)
    torch.manual_seed(3)
    torch.testing.assert_close(model(images).cls_token[0], found[1][0], rtol=1e-4, atol=1e-5)
    model.eval()
    assert not torch.allclose(model(images).cls_token[0], found[1][0], atol=1e-3)


@pytest.mark.parametrize("registers", [0, 2])
def test_positions_are_interpolated_smoothly(registers):
    model = VisionTransformer(Architecture(arch="vit_nano", patch_size=8, image_size=64, num_register_tokens=registers))
    ramp = torch.linspace(-1, 1, 8).repeat(8, 1).flatten()
    with torch.no_grad():
        model.pos_embed[0, 1:] = ramp[:, None]
    positions = model.positions(4, 6)
    assert positions.shape == (1, 25, 192)
    torch.testing.assert_close(positions[:, :1], model.pos_embed[:, :1])
    row = positions[0, 1:].reshape(4, 6, 192)[:, :, 0]
    assert (row.diff(dim=1) > 0.1).all()
    assert row.diff(dim=0).abs().max() < 1e-5
    assert model.positions(8, 8) is model.pos_embed


def test_a_mask_hides_what_is_under_it():
    model = randomised(Architecture(arch="vit_nano", patch_size=8, image_size=16))
    images = torch.randn(1, 3, 16, 16)
    changed = images.clone()
    changed[..., :8, 8:] += 1  # patch 1
    mask = torch.tensor([[False, True, False, False]])
    with torch.no_grad():
        torch.testing.assert_close(model(images, mask).patch_tokens, model(changed, mask).patch_tokens)
        assert not torch.allclose(model(images).patch_tokens, model(changed).patch_tokens)


def test_scores_are_cosines():
    head = DINOHead(8, Head(prototypes=5, hidden=16, bottleneck=4))
    with torch.no_grad():
        scores, _ = head.scores(100 * torch.randn(20, 8))
    assert scores.shape == (20, 5)
    assert scores.abs().max() <= 1 + 1e-5
    torch.testing.assert_close(head.embed(torch.randn(3, 8)).norm(dim=-1), torch.ones(3))


def test_building_is_a_function_of_the_seed_alone():
    architecture = Architecture(arch="vit_nano", patch_size=8, image_size=16)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, two, other = build(architecture, 3), build(architecture, 3), build(architecture, 4)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.pos_embed, two.pos_embed)
    assert not torch.equal(one.pos_embed, other.pos_embed)


@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
@pytest.mark.parametrize(("init_std", "expected"), [(0.02, lambda _: 0.02), ("fan_in", lambda inputs: inputs**-0.5)])
def test_linear_layers_begin_as_large_as_is_asked_for(init_std, expected, ffn):
    torch.manual_seed(0)
    model = VisionTransformer(Architecture(arch="vit_nano", ffn=ffn, init_std=init_std))
    layers = [module for module in model.blocks.modules() if isinstance(module, torch.nn.Linear)]
    assert {layer.in_features for layer in layers} > {192}
    for layer in layers:
        assert layer.weight.std().item() == pytest.approx(expected(layer.in_features), rel=0.02)
        assert not layer.bias.any()
