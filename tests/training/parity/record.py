"""Record what the public dinov2 code computes from fixed inputs: ``python -m tests.training.parity.record CHECKOUT``.

Writes ``recorded.json`` beside this file. The inputs are in ``fixed.py``, so the file holds results alone.
"""

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from tests.benchmarks._upstream_step import replace_what_is_not_here
from tests.training.parity.fixed import fill, fixed

RECORDED = Path(__file__).with_name("recorded.json")
ITERATIONS = [0, 1, 3, 7, 20, 39]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", help="folder of a clone of facebookresearch/dinov2")
    checkout = Path(parser.parse_args().checkout).resolve()
    replace_what_is_not_here()
    sys.path.insert(0, str(checkout))
    torch.use_deterministic_algorithms(True)
    default = OmegaConf.load(checkout / "dinov2" / "configs" / "ssl_default_config.yaml")
    found = {
        "losses": losses(),
        "backbones": backbones(),
        "masks": masks(),
        "groups": groups(),
        "schedules": schedules(),
        "recipes": {name: recipe(default, checkout, name) for name in RECIPES},
        "step": {name: step(default, *setting) for name, setting in STEPS.items()},
    }
    RECORDED.write_text(json.dumps(rounded(found), indent=1) + "\n")


def losses() -> dict[str, Any]:
    from dinov2.loss import DINOLoss, KoLeoLoss, iBOTPatchLoss

    dino, patch = DINOLoss(12), iBOTPatchLoss(12)
    scores = fixed("teacher", 6, 12)
    count = torch.tensor([6])
    targets = patch.sinkhorn_knopp_teacher(scores, 0.07, n_masked_patches_tensor=count)
    found: dict[str, Any] = {
        "sinkhorn_dino": dino.sinkhorn_knopp_teacher(scores, 0.05),
        "sinkhorn_ibot": targets,
        "koleo": KoLeoLoss()(fixed("koleo", 7, 5)),
        "dino": dino(list(fixed("student", 4, 3, 12)), list(targets.reshape(2, 3, 12))),
    }
    marks = fixed("masks", 4, 9) > 0.2
    masked = int(marks.sum())
    targets = fixed("patch targets", masked, 12).softmax(-1)
    found["ibot"] = patch.forward_masked(fixed("patches", masked, 12), targets, student_masks_flat=marks)
    for name in ("first", "second"):
        scores = fixed(name, 6, 12)
        found[f"centered_dino_{name}"] = dino.softmax_center_teacher(scores, 0.06)
        found[f"centered_ibot_{name}"] = patch.softmax_center_teacher(scores.unsqueeze(0), 0.06).squeeze(0)
        dino.update_center(scores)
        patch.update_center(scores.unsqueeze(0))
    return found


BACKBONES = {  # feed-forward, registers, side of the images that the positions are for, side of the images
    "plain": ("mlp", 0, 56, 56),
    "smaller": ("mlp", 0, 70, 42),
    "registers": ("mlp", 4, 70, 42),
    "gated": ("swiglu", 0, 56, 56),
}


def backbones() -> dict[str, Any]:
    from dinov2.models.vision_transformer import vit_small

    found = {}
    for name, (ffn, registers, grid, side) in BACKBONES.items():
        more = {"interpolate_antialias": True, "interpolate_offset": 0.0} if registers else {}
        model = vit_small(
            patch_size=14,
            img_size=grid,
            num_register_tokens=registers,
            ffn_layer=ffn,
            init_values=1.0,
            block_chunks=0,
            **more,
        ).eval()
        fill(model)
        marks = fixed("masks", 2, (side // 14) ** 2) > 0.4
        with torch.no_grad():
            out = model.forward_features(fixed("images", 2, 3, side, side), marks)
        found[name] = [out["x_norm_clstoken"][:, :24], out["x_norm_patchtokens"][:, -1, -24:]]
    return found


def masks() -> dict[str, Any]:
    from dinov2.data.masking import MaskingGenerator

    random.seed(0)
    generator = MaskingGenerator(input_size=(16, 16), max_num_patches=0.5 * 224 // 14 * 224 // 14)
    found = {}
    for target in (26, 60, 100, 128):
        drawn = torch.tensor([int(generator(target).sum()) for _ in range(2000)], dtype=torch.float64)
        found[str(target)] = [drawn.mean(), drawn.std(), (drawn == target).double().mean()]
    return found


def groups() -> dict[str, list[float]]:
    from dinov2.layers import DINOHead
    from dinov2.models.vision_transformer import vit_small
    from dinov2.utils.param_groups import get_params_groups_with_decay

    parts = {
        "backbone": vit_small(patch_size=14, img_size=28, num_register_tokens=2, init_values=1.0, block_chunks=0),
        "dino_head": DINOHead(8, 4, hidden_dim=8, bottleneck_dim=4),
    }
    return {
        f"{part}.{group['name']}": [group["lr_multiplier"], group["wd_multiplier"], float(group["is_last_layer"])]
        for part, module in parts.items()
        for group in get_params_groups_with_decay(module, lr_decay_rate=0.9, patch_embed_lr_mult=0.2)
    }


def schedules() -> dict[str, list[float]]:
    from dinov2.utils.utils import CosineScheduler

    rate = {"base_value": 4e-3, "final_value": 1e-6, "total_iters": 40, "warmup_iters": 8, "start_warmup_value": 0}
    every = {
        "lr": CosineScheduler(**rate),
        "weight_decay": CosineScheduler(base_value=0.04, final_value=0.4, total_iters=40),
        "momentum": CosineScheduler(base_value=0.992, final_value=1.0, total_iters=40),
        "teacher_temp": CosineScheduler(
            base_value=0.07, final_value=0.07, total_iters=12, warmup_iters=12, start_warmup_value=0.04
        ),
    }
    return {name: [float(schedule[i]) for i in ITERATIONS] for name, schedule in every.items()}


RECIPES = {"vitl16_short": 32, "vitl14": 96, "vitg14": 256}  # GPUs
EPOCHS = [0, 0.001, 0.9992, 1, 7, 10, 29.5, 30, 79.9992, 80, 99.99]  # of 1,250 iterations


def recipe(default: Any, checkout: Path, name: str) -> dict[str, Any]:
    """What a published configuration says, and the schedules it makes by the formulas of the public loop."""
    from dinov2.utils.utils import CosineScheduler

    config = OmegaConf.merge(default, OmegaConf.load(checkout / "dinov2" / "configs" / "train" / f"{name}.yaml"))
    train, optim, teacher = config.train, config.optim, config.teacher
    epoch = train.OFFICIAL_EPOCH_LENGTH
    steps = optim.epochs * epoch
    rate = optim.base_lr * (train.batch_size_per_gpu * RECIPES[name] / 1024) ** 0.5
    heat, warm = teacher.teacher_temp, teacher.warmup_teacher_temp_epochs * epoch
    lr = CosineScheduler(rate, optim.min_lr, steps, optim.warmup_epochs * epoch, 0)
    last = CosineScheduler(rate, optim.min_lr, steps, optim.warmup_epochs * epoch, 0)
    last.schedule[: optim.freeze_last_layer_epochs * epoch] = 0
    every = {
        "lr": lr,
        "last_layer_lr": last,
        "weight_decay": CosineScheduler(optim.weight_decay, optim.weight_decay_end, steps),
        "momentum": CosineScheduler(teacher.momentum_teacher, teacher.final_momentum_teacher, steps),
        "teacher_temp": CosineScheduler(heat, heat, warm, warm, teacher.warmup_teacher_temp),
    }
    iterations = [round(epoch * number) for number in EPOCHS]
    sections = ("dino", "ibot", "train", "student", "crops", "optim")
    return {
        "steps": steps,
        "schedules": {name: [float(schedule[i]) for i in iterations] for name, schedule in every.items()},
        "settings": {section: OmegaConf.to_container(config[section]) for section in sections},
    }


STEPS = {"sinkhorn_tied": ("sinkhorn_knopp", False), "softmax_untied": ("centering", True)}


def step(default: Any, centering: str, separate: bool) -> dict[str, Any]:
    """Losses and gradients of one step on a narrow head and small crops, without stochastic depth."""
    from dinov2.train.ssl_meta_arch import SSLMetaArch

    head = {"head_n_prototypes": 12, "head_hidden_dim": 16, "head_bottleneck_dim": 8}
    narrow = {
        "compute_precision": {"grad_scaler": False},
        "dino": head,
        "ibot": {**head, "separate_head": separate},
        "train": {"centering": centering},
        "student": {"arch": "vit_small", "patch_size": 14, "drop_path_rate": 0.0, "layerscale": 1.0},
        "crops": {"global_crops_size": 56, "local_crops_size": 28, "local_crops_number": 3},
    }
    model = SSLMetaArch(OmegaConf.merge(default, narrow))
    fill(model.student)
    fill(model.teacher)
    with torch.no_grad():  # so that the teacher is another network
        for parameter in model.teacher.parameters():
            parameter.mul_(1.1)
    model.need_to_synchronize_fsdp_streams = False
    model.train()
    marks = fixed("masks", 6, 16) > 0.3
    marks[1] = marks[4] = False
    batch = {
        "collated_global_crops": fixed("global crops", 6, 3, 56, 56),
        "collated_local_crops": fixed("local crops", 9, 3, 28, 28),
        "collated_masks": marks,
        "mask_indices_list": marks.flatten().nonzero().flatten(),
        "masks_weight": (1 / marks.sum(-1).clamp(min=1.0)).unsqueeze(-1).expand_as(marks)[marks],
        "upperbound": int(marks.sum()),
        "n_masked_patches": torch.tensor([int(marks.sum())]),
    }
    found = model.forward_backward(batch, teacher_temp=0.07)
    norms = {
        name: torch.stack([p.grad.norm() for p in part.parameters() if p.grad is not None]).norm()
        for name, part in model.student.items()
    }
    return {"losses": found, "grad_norms": norms}


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    if isinstance(value, Tensor):
        return rounded(value.tolist())
    return float(f"{value:.8g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
