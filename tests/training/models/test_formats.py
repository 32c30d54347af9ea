import json

import pytest
import timm
import torch
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer as TimmTransformer
from torch import nn

from tests.training.models.test_vit import randomised
from tests.training.parity.fixed import fill_tensor, fixed
from tests.training.parity.record_transformers import GRID_SIDE, MODELS, RECORDED
from training.config import Architecture
from training.models.formats import from_timm, from_transformers, from_upstream, to_timm, to_transformers
from training.models.vit import VisionTransformer

LIBRARY = json.loads(RECORDED.read_text())


def timms(ffn: str, registers: int, side: int) -> nn.Module:
    if ffn == "mlp":
        name = "vit_small_patch14_reg4_dinov2" if registers else "vit_small_patch14_dinov2"
        return timm.create_model(name, pretrained=False, img_size=side, num_classes=0).eval()
    more = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU, "mlp_ratio": 2048.5 / 384, "init_values": 1.0}
    registers_too = {"reg_tokens": registers, "no_embed_class": bool(registers), "num_classes": 0}
    return TimmTransformer(side, 14, embed_dim=384, depth=12, num_heads=6, **more, **registers_too).eval()


@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
@pytest.mark.parametrize("registers", [0, 4])
def test_equals_timms_dinov2_and_goes_there_and_back(ffn, registers):
    size = {"arch": "vit_small", "patch_size": 14, "image_size": 56, "ffn": ffn, "num_register_tokens": registers}
    model, images = randomised(Architecture(**size)), torch.randn(2, 3, 56, 56)
    peer = timms(ffn, registers, 56)
    peer.load_state_dict(to_timm(model.state_dict()))
    back = VisionTransformer(Architecture(**size)).eval()
    back.load_state_dict(from_timm(peer.state_dict()))
    with torch.no_grad():
        found, expected, again = model(images), peer.forward_features(images), back(images)
    first = 1 + registers
    for one in (found, again):
        torch.testing.assert_close(one.cls_token, expected[:, 0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(one.register_tokens, expected[:, 1:first], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(one.patch_tokens, expected[:, first:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
@pytest.mark.parametrize("registers", [0, 4])
def test_equals_timms_dinov2_at_another_size(ffn, registers):
    model = randomised(Architecture(arch="vit_small", image_size=70, ffn=ffn, num_register_tokens=registers))
    images = torch.randn(2, 3, 42, 56)
    peer = timms(ffn, registers, 42)
    peer.patch_embed.strict_img_size = False
    weights = to_timm(model.state_dict() | {"pos_embed": model.positions(3, 4).detach()})
    peer.pos_embed = nn.Parameter(weights["pos_embed"])
    peer.load_state_dict(weights)
    with torch.no_grad():
        expected = peer.forward_features(images)
        torch.testing.assert_close(model(images).cls_token, expected[:, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", [42, 112])
def test_equals_timms_own_interpolation_with_registers(side):
    model = randomised(Architecture(arch="vit_small", image_size=70, num_register_tokens=4))
    images = torch.randn(2, 3, side, 56)
    name = "vit_small_patch14_reg4_dinov2"
    peer = timm.create_model(name, pretrained=False, img_size=70, num_classes=0, dynamic_img_size=True).eval()
    peer.load_state_dict(to_timm(model.state_dict()))
    with torch.no_grad():
        found, expected = model(images), peer.forward_features(images)
    torch.testing.assert_close(found.cls_token, expected[:, 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.patch_tokens, expected[:, 5:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_equals_the_transformers_librarys_dinov2_and_goes_there_and_back(name):
    recorded, (gated, registers) = LIBRARY[name], MODELS[name]
    theirs = {key: fill_tensor(key, torch.empty(shape)) for key, shape in recorded["shapes"].items()}
    ffn = "swiglu" if gated else "mlp"
    model = VisionTransformer(
        Architecture(arch="vit_nano", patch_size=14, image_size=GRID_SIDE, ffn=ffn, num_register_tokens=registers)
    ).eval()
    model.load_state_dict(from_transformers(theirs))
    for side in [int(key) for key in recorded if key != "shapes"]:
        with torch.no_grad():
            found = model(fixed("images", 2, 3, side, side))
        first, last = torch.tensor(recorded[str(side)])
        torch.testing.assert_close(found.cls_token[:, :24], first, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.patch_tokens[:, -1, -24:], last, rtol=1e-5, atol=1e-5)
    again = to_transformers(model.state_dict())
    assert set(again) == set(theirs)
    assert all(torch.equal(again[key], theirs[key]) for key in theirs)


def test_what_is_no_backbone_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'classifier\.weight' is no tensor of a DINOv2 backbone"):
        from_transformers({"classifier.weight": torch.zeros(1)})


def test_releases_whose_blocks_lie_in_chunks_are_read():
    names = from_upstream(
        dict.fromkeys(("blocks.0.0.norm1.weight", "blocks.3.21.ls1.gamma", "norm.bias"), torch.zeros(1))
    )
    assert list(names) == ["blocks.0.norm1.weight", "blocks.21.ls1.gamma", "norm.bias"]
