import pytest
import timm
import torch

from training.config import Architecture, Head
from training.models.head import DINOHead
from training.models.vit import VisionTransformer, attend
from training.pretrained import build


def randomised(architecture: Architecture) -> VisionTransformer:
    """Weights as large as trained ones, so that every branch counts."""
    torch.manual_seed(0)
    model = VisionTransformer(architecture).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return model


@pytest.mark.parametrize("registers", [0, 4])
def test_equals_timms_dinov2(registers):
    name = "vit_small_patch14_reg4_dinov2" if registers else "vit_small_patch14_dinov2"
    peer = timm.create_model(name, pretrained=False, img_size=56, num_classes=0).eval()
    model = randomised(Architecture(arch="vit_small", patch_size=14, image_size=56, num_register_tokens=registers))
    weights = {key: value for key, value in model.state_dict().items() if key not in ("mask_token", "register_tokens")}
    if registers:
        weights["reg_token"] = model.state_dict()["register_tokens"]
        weights["cls_token"] = weights["cls_token"] + weights["pos_embed"][:, :1]  # timm adds it beforehand
        weights["pos_embed"] = weights["pos_embed"][:, 1:]
    peer.load_state_dict(weights)
    images = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        found, expected = model(images), peer.forward_features(images)
    torch.testing.assert_close(found.cls_token, expected[:, 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.register_tokens, expected[:, 1 : 1 + registers], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.patch_tokens, expected[:, 1 + registers :], rtol=1e-5, atol=1e-5)


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


def test_stochastic_depth_keeps_the_expectation():
    model = randomised(Architecture(arch="vit_nano", patch_size=8, image_size=16, drop_path=0.4))
    block = model.blocks[0]
    x = torch.randn(10, 5, 192)
    with torch.no_grad():
        whole = block._residual(x, block.norm1, block.attn, block.ls1) - x
        block.train()
        dropped = [block._residual(x, block.norm1, block.attn, block.ls1) - x for _ in range(400)]
    assert all(int((d.abs().sum((1, 2)) > 0).sum()) == 6 for d in dropped)
    kept = dropped[0].abs().sum((1, 2)) > 0
    torch.testing.assert_close(dropped[0][kept], whole[kept] * 10 / 6, rtol=1e-4, atol=1e-5)
    share = torch.stack([d.abs().sum((1, 2)) > 0 for d in dropped]).float().mean(0)
    assert (share - 0.6).abs().max() < 0.1  # every sample is kept equally often


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


def test_attention_in_bf16_is_attention():
    q, k, v = torch.randn(3, 2, 3, 17, 64)
    found = attend(q.bfloat16(), k.bfloat16(), v.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), attend(q, k, v), rtol=0.05, atol=0.03)


def test_scores_are_cosines():
    head = DINOHead(8, Head(prototypes=5, hidden=16, bottleneck=4))
    scores = head(100 * torch.randn(20, 8))
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
