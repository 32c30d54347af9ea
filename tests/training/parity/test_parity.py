"""Ours beside what the public code computed from the same inputs; ``record.py`` says how it was recorded."""

import json
import math

import numpy as np
import pytest
import torch

from tests.training.parity.fixed import fill, fixed
from tests.training.parity.record import BACKBONES, ITERATIONS, RECORDED, STEPS
from training.config import Architecture, Optimiser, Recipe
from training.data.loader import Batch
from training.data.masking import add_blocks, max_block
from training.dinov2 import DINOv2
from training.losses.centering import moved_center, softmax_around_
from training.losses.cross_entropy import cross_entropy
from training.losses.dino import dino_targets, dino_terms
from training.losses.ibot import ibot
from training.losses.koleo import koleo
from training.losses.sinkhorn import sinkhorn_
from training.models.vit import VisionTransformer
from training.optim import clip_gradients, multipliers
from training.schedules import at

PUBLIC = json.loads(RECORDED.read_text())
LOSSES = PUBLIC["losses"]


def close(found: torch.Tensor, expected: object, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, torch.tensor(expected).to(found.dtype), rtol=tolerance, atol=tolerance)


def entropies(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Of given scores [m, K]: with one dimension a prototype, scores are what the rows already are."""
    eye, gains = torch.eye(scores.shape[1]), torch.ones(scores.shape[1], 1)
    return cross_entropy(scores, eye, gains, lambda part: targets[:, part], 0.1, torch.float32, chunk=30)


def test_sinkhorn():
    close(sinkhorn_(fixed("teacher", 6, 12), 0.05), LOSSES["sinkhorn_dino"])
    close(sinkhorn_(fixed("teacher", 6, 12), 0.07), LOSSES["sinkhorn_ibot"])


@pytest.mark.parametrize("loss", ["dino", "ibot"])
def test_softmax_centering_over_two_steps(loss):
    center = torch.zeros(12)
    for name in ("first", "second"):
        scores = fixed(name, 6, 12)
        later = moved_center(center, scores)
        close(softmax_around_(scores, center, 0.06), LOSSES[f"centered_{loss}_{name}"])
        center = later


def test_koleo():
    close(koleo(fixed("koleo", 7, 5)), LOSSES["koleo"])


def test_dino_local_crops():
    # upstream sums the means over all pairs of 4 student and 2 teacher crops; the objective divides by 2 L + 2
    targets = sinkhorn_(fixed("teacher", 6, 12), 0.07)
    scores = torch.cat((torch.zeros(6, 12), fixed("student", 4, 3, 12).flatten(0, 1)))
    found = dino_terms(entropies(scores, dino_targets(targets, 4)), 4)["dino_local"]
    close(found * 10, LOSSES["dino"])


def test_ibot():
    marks = fixed("masks", 4, 9) > 0.2
    masked = int(marks.sum())
    weights = (1 / marks.sum(1)).unsqueeze(1).expand_as(marks)[marks]
    losses = entropies(fixed("patches", masked, 12), fixed("patch targets", masked, 12).softmax(-1))
    close(ibot(losses, weights, 4), LOSSES["ibot"])


@pytest.mark.parametrize("name", BACKBONES)
def test_backbone(name):
    ffn, registers, grid, side = BACKBONES[name]
    model = VisionTransformer(
        Architecture(arch="vit_small", patch_size=14, image_size=grid, num_register_tokens=registers, ffn=ffn)
    ).eval()
    fill(model)
    marks = fixed("masks", 2, (side // 14) ** 2) > 0.4
    with torch.no_grad():
        found = model(fixed("images", 2, 3, side, side), marks)
    close(found.cls_token[:, :24], PUBLIC["backbones"][name][0])
    close(found.patch_tokens[:, -1, -24:], PUBLIC["backbones"][name][1])


@pytest.mark.parametrize("target", [int(target) for target in PUBLIC["masks"]])
def test_masks_have_as_many_patches_as_the_public_ones(target):
    mean, deviation, share_whole = PUBLIC["masks"][str(target)]
    rng, counts = np.random.default_rng(0), []
    for _ in range(2000):
        mask = np.zeros((16, 16), dtype=bool)
        add_blocks(mask, target, max_block(224, 14), rng)
        counts.append(mask.sum())
    error = max(deviation, 0.05) * math.sqrt(2 / 2000)  # of a difference of two means of 2,000
    assert abs(np.mean(counts) - mean) < 4 * error
    assert abs(np.mean(np.array(counts) == target) - share_whole) < 4 * math.sqrt(2 * 0.25 / 2000)


def test_parameter_groups():
    config = Optimiser(layer_decay=0.9, patch_embed_lr=0.2)
    for name, (lr, wd, last) in PUBLIC["groups"].items():
        # the public code counts no layers for a head, and all that a head has is at the end of the network
        assert multipliers(name, 12, config) == (pytest.approx(lr), wd, bool(last)), name


def test_schedules():
    recipe = Recipe.model_validate(
        {
            "steps": 40,
            "batch_size_global": 1024,
            "optimiser": {"base_lr": 4e-3, "min_lr": 1e-6, "warmup_steps": 8, "weight_decay": (0.04, 0.4)},
            "teacher": {"momentum": (0.992, 1.0), "temp": (0.04, 0.07), "temp_warmup_steps": 12},
        }
    )
    for name, expected in PUBLIC["schedules"].items():
        assert [getattr(at(recipe, i), name) for i in ITERATIONS] == pytest.approx(expected, rel=1e-6), name


@pytest.mark.parametrize("name", STEPS)
def test_one_whole_step(name, monkeypatch):
    centering, separate = STEPS[name]
    head = {"prototypes": 12, "hidden": 16, "bottleneck": 8}
    recipe = Recipe.model_validate(
        {
            "steps": 1,
            "batch_size_global": 3,
            "model": {"arch": "vit_small", "patch_size": 14, "image_size": 56},
            "heads": {"dino": head, "ibot": head if separate else None},
            "crops": {"global_size": 56, "local_size": 28, "num_local": 3},
            "losses": {"centering": {"centering": "softmax", "sinkhorn_knopp": "sinkhorn"}[centering]},
        }
    )
    model = DINOv2(recipe)
    fill(model.student)
    fill(model.teacher)
    with torch.no_grad():
        for parameter in model.teacher.parameters():
            parameter.mul_(1.1)
    marks = fixed("masks", 6, 16) > 0.3
    marks[1] = marks[4] = False
    batch = Batch(
        global_crops=fixed("global crops", 6, 3, 56, 56),
        local_crops=fixed("local crops", 9, 3, 28, 28),
        masks=marks,
        mask_indices=marks.flatten().nonzero().flatten(),
        mask_weights=(1 / marks.sum(1).clamp(min=1)).unsqueeze(1).expand_as(marks)[marks],
        num_unreadable=torch.tensor(0),
        colours=torch.empty(0, 8),
    )
    monkeypatch.setattr("training.dinov2.normalise", lambda crops, _: crops)  # they are
    (losses,), _ = model.losses([batch], 0.07)
    losses["loss"].backward()
    public = PUBLIC["step"][name]["losses"]
    assert losses["loss_dino_local"].item() == pytest.approx(public["dino_local_crops_loss"], rel=1e-4)
    assert losses["loss_dino_global"].item() == pytest.approx(public["dino_global_crops_loss"], rel=1e-4)
    assert losses["loss_koleo"].item() == pytest.approx(2 * public["koleo_loss"], rel=1e-4)  # shown halved
    assert losses["loss_ibot"].item() == pytest.approx(2 * public["ibot_loss"], rel=1e-4)  # shown halved
    norms = clip_gradients(model.student, 1e9)
    for part, expected in PUBLIC["step"][name]["grad_norms"].items():
        assert norms[part].item() == pytest.approx(expected, rel=1e-3), part
