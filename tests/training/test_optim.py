import pytest
import torch
from torch import nn

from training.config import Architecture, Head, Optimiser
from training.models.head import DINOHead
from training.models.vit import VisionTransformer
from training.optim import build_optimiser, clip_gradients, multipliers, set_schedule, step_where
from training.schedules import Now

CONFIG = Optimiser(layer_decay=0.9, patch_embed_lr=0.2)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("backbone.cls_token", (0.9**13, 1.0, False)),
        ("backbone.pos_embed", (0.9**13, 1.0, False)),
        ("backbone.mask_token", (0.9**13, 1.0, False)),
        ("backbone.register_tokens", (0.9**13, 1.0, False)),
        ("backbone.patch_embed.proj.weight", (0.9**13 * 0.2, 1.0, False)),
        ("backbone.patch_embed.proj.bias", (0.9**13 * 0.2, 0.0, False)),
        ("backbone.blocks.0.attn.qkv.weight", (0.9**12, 1.0, False)),
        ("backbone.blocks.11.mlp.fc1.weight", (0.9, 1.0, False)),
        ("backbone.blocks.11.mlp.fc1.bias", (0.9, 0.0, False)),
        ("backbone.blocks.3.ls1.gamma", (0.9**9, 0.0, False)),
        ("backbone.blocks.3.norm1.weight", (0.9**9, 0.0, False)),
        ("backbone.norm.weight", (1.0, 0.0, False)),
        ("dino_head.mlp.0.weight", (1.0, 1.0, False)),
        ("ibot_head.last_layer.weight_v", (1.0, 1.0, True)),
    ],
)
def test_multipliers_of_a_vit_with_12_blocks(name, expected):
    lr, wd, last = multipliers(name, 12, CONFIG)
    assert (lr, wd, last) == (pytest.approx(expected[0]), *expected[1:])


@pytest.fixture
def student():
    backbone = VisionTransformer(Architecture(arch="vit_nano", patch_size=8, image_size=16))
    return nn.ModuleDict({"backbone": backbone, "dino_head": DINOHead(192, Head(prototypes=8, hidden=8, bottleneck=4))})


def test_every_parameter_is_in_one_group_and_the_last_layer_freezes(student):
    optimiser = build_optimiser(student, CONFIG)
    grouped = [p for group in optimiser.param_groups for p in group["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, student.parameters()))
    set_schedule(optimiser, Now(lr=1.0, last_layer_lr=0.0, weight_decay=0.3, momentum=1.0, teacher_temp=0.07))
    of = {id(p): group for group in optimiser.param_groups for p in group["params"]}
    last, proj = student["dino_head"].last_layer.weight_v, student["backbone"].patch_embed.proj
    assert of[id(last)]["lr"] == 0
    assert of[id(proj.weight)]["lr"] == pytest.approx(0.9**7 * 0.2)
    assert (of[id(proj.weight)]["weight_decay"], of[id(proj.bias)]["weight_decay"]) == (0.3, 0.0)


def test_each_sub_module_is_clipped_by_itself(student):
    for name, part in student.items():
        for p in part.parameters():
            p.grad = torch.full_like(p, 100.0 if name == "backbone" else 1e-6)
    heads = [p.grad.clone() for p in student["dino_head"].parameters()]
    norms = clip_gradients(student, 3.0)
    clipped = torch.cat([p.grad.flatten() for p in student["backbone"].parameters()]).norm()
    assert clipped.item() == pytest.approx(3.0, rel=2e-3)
    assert norms["backbone"] > 1000
    assert all(torch.equal(p.grad, g) for p, g in zip(student["dino_head"].parameters(), heads, strict=True))


@pytest.mark.parametrize("finite", [True, False])
def test_a_step_happens_only_where_it_is_finite(finite):
    parameter = nn.Parameter(torch.ones(3))
    optimiser = torch.optim.AdamW([parameter], lr=0.1, fused=True)
    parameter.grad = torch.ones(3) if finite else torch.full((3,), float("nan"))
    step_where(torch.tensor(finite), optimiser)
    assert torch.equal(parameter.detach(), torch.ones(3)) is not finite
    assert parameter.isfinite().all()
    assert parameter.grad is None
