"""The objective and its gradients beside a plain form that keeps everything in memory."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from training.config import Recipe
from training.data.augment import normalise
from training.data.loader import Batch
from training.data.masking import batch_masks
from training.dinov2 import DINOv2
from training.losses.koleo import koleo

HEAD = {"prototypes": 40, "hidden": 24, "bottleneck": 12}
TEMP = 0.06


def made(**changes: object) -> tuple[DINOv2, Batch]:
    """A model whose teacher is another network and whose weights are large enough to count, and a batch."""
    recipe = Recipe.model_validate(
        {
            "steps": 1,
            "batch_size_global": 3,
            "model": {"arch": "vit_nano", "patch_size": 8, "image_size": 32, "layer_scale": 1.0},
            "heads": {"dino": HEAD},
            "crops": {"global_size": 32, "local_size": 16, "num_local": 2},
        }
        | changes
    )
    torch.manual_seed(0)
    model = DINOv2(recipe)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.08)
    rng = np.random.default_rng(0)
    size = recipe.batch_size_global
    masks = torch.from_numpy(batch_masks(2 * size, 4, 8, recipe.masking, [0]))
    shapes = ((2 * size, 32), (recipe.crops.num_local * size, 16))
    pixels = [rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8) for n, side in shapes]
    weights = (1 / masks.sum(1).clamp(min=1)).unsqueeze(1).expand_as(masks)[masks]
    indices = masks.flatten().nonzero().flatten()
    return model, Batch(*map(torch.from_numpy, pixels), masks, indices, weights, torch.tensor(0), torch.empty(0, 8))


def plain(model: DINOv2, batch: Batch, temp: float = TEMP) -> Tensor:
    """The objective as the papers write it."""
    recipe, weights = model.recipe, model.recipe.losses
    images, local = normalise(batch.global_crops, recipe.pixels), normalise(batch.local_crops, recipe.pixels)
    seen, whole = model.student["backbone"](images, batch.masks), model.teacher["backbone"](images)
    loss = torch.zeros(())
    if weights.dino_weight:
        targets = scores(model.teacher["dino_head"], whole.cls_token)
        queued = queued_scores(model)
        targets = balanced(torch.cat((queued, targets)), weights.centering, temp)[len(queued) :].chunk(2)
        students = list(scores(model.student["dino_head"], seen.cls_token).chunk(2))
        if num_local := recipe.crops.num_local:
            students += scores(model.student["dino_head"], model.student["backbone"](local).cls_token).chunk(num_local)
        pairs = [(s, t) for i, s in enumerate(students) for j, t in enumerate(targets) if i != j]
        assert len(pairs) == 2 + 2 * num_local
        loss = loss + weights.dino_weight * sum(entropy(*pair).mean() for pair in pairs) / len(pairs)
    if weights.ibot_weight:
        head = "ibot_head" if recipe.heads.ibot else "dino_head"
        target = scores(model.teacher[head], whole.patch_tokens[batch.masks])
        student = scores(model.student[head], seen.patch_tokens[batch.masks])
        every = torch.zeros(batch.masks.shape)
        every[batch.masks] = entropy(student, balanced(target, weights.centering, temp))
        loss = loss + weights.ibot_weight * (every.sum(1) / batch.masks.sum(1).clamp(min=1)).mean()
    return loss + weights.koleo_weight * sum(koleo(crop) for crop in seen.cls_token.chunk(2))


def scores(head: torch.nn.Module, tokens: Tensor) -> Tensor:
    return head.embed(tokens) @ prototypes(head).T


def prototypes(head: torch.nn.Module) -> Tensor:
    layer = head.last_layer
    return layer.weight_g * layer.weight_v / layer.weight_v.norm(dim=1, keepdim=True)


def queued_scores(model: DINOv2) -> Tensor:
    """Of what the queue has been given so far, with the teacher's prototypes as they are now."""
    if not model.recipe.losses.queue:
        return torch.empty(0, model.recipe.heads.dino.prototypes)
    return model.cls_queue[model.cls_queue.norm(dim=-1) > 0] @ prototypes(model.teacher["dino_head"]).T


def balanced(scores: Tensor, centering: str, temp: float) -> Tensor:
    if centering == "softmax":
        return torch.softmax(scores / temp, -1).detach()
    q = torch.exp(scores.double() / temp)
    for _ in range(3):
        q = q / q.sum(0)
        q = q / q.sum(1, keepdim=True)
    return q.float().detach()


def entropy(scores: Tensor, targets: Tensor) -> Tensor:
    return -(targets * functional.log_softmax(scores / 0.1, -1)).sum(-1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"heads": {"dino": HEAD, "ibot": HEAD | {"prototypes": 30, "bottleneck": 7}}},
        {"losses": {"centering": "softmax"}},
        {"losses": {"queue": 8}},
        {"losses": {"queue": 8}, "heads": {"dino": HEAD, "ibot": HEAD | {"prototypes": 30, "bottleneck": 7}}},
        {"heads": {"dino": HEAD, "ibot": HEAD}, "losses": {"dino_weight": 0.0}},
        {"losses": {"dino_weight": 0.0, "koleo_weight": 0.0}},
        {"losses": {"ibot_weight": 0.0, "dino_weight": 0.5}},
        {"model": {"arch": "vit_nano", "patch_size": 8, "image_size": 32, "ffn": "swiglu", "num_register_tokens": 3}},
    ],
    ids=[
        "tied",
        "untied",
        "softmax",
        "queue",
        "queue_untied",
        "ibot_alone",
        "ibot_alone_in_the_shared_head",
        "without_ibot",
        "swiglu_registers",
    ],
)
def test_objective_and_gradients_are_those_of_the_plain_form(changes):
    model, batch = made(**changes)
    if model.recipe.losses.queue:  # not full yet
        model.cls_queue[3:] = functional.normalize(torch.randn(5, 2, HEAD["bottleneck"]), dim=-1)
    (losses,), memory = model.losses([batch], TEMP)
    expected = plain(model, batch)
    if model.recipe.losses.queue:
        assert torch.equal(memory["cls_queue"][:5], model.cls_queue[3:])
    assert losses["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    parameters = dict(model.student.named_parameters())
    every = [torch.autograd.grad(x, list(parameters.values()), allow_unused=True) for x in (losses["loss"], expected)]
    for name, one, other in zip(parameters, *every, strict=True):
        assert (one is None) == (other is None), name
        if one is not None:
            difference = (one - other).norm() / other.norm().clamp(min=1e-6)
            assert difference < 2e-4, name


def test_bf16_is_near_fp32():
    values = {}
    for precision in ("fp32", "bf16"):
        model, batch = made(precision=precision)
        (losses,), _ = model.losses([batch], TEMP)
        losses["loss"].backward()
        gradient = torch.cat([p.grad.flatten() for p in model.student.parameters()])
        assert gradient.dtype == torch.float32
        values[precision] = losses["loss"].item(), gradient
    assert values["bf16"][0] == pytest.approx(values["fp32"][0], rel=0.02)
    assert functional.cosine_similarity(values["bf16"][1], values["fp32"][1], dim=0) > 0.95


def test_the_same_step_twice_is_the_same_to_the_last_bit():
    found = []
    for _ in range(2):
        model, batch = made(model={"arch": "vit_nano", "patch_size": 8, "image_size": 32, "drop_path": 0.3})
        model.student.train()
        torch.manual_seed(7)
        (losses,), _ = model.losses([batch], TEMP)
        losses["loss"].backward()
        found.append(torch.cat([p.grad.flatten() for p in model.student.parameters()]))
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"losses": {"dino_weight": 0, "ibot_weight": 0}}, "dino_weight and ibot_weight are both 0"),
        ({"losses": {"ibot_weight": 0}, "heads": {"ibot": HEAD}}, "heads.ibot is set but losses.ibot_weight is 0"),
        ({"model": {"in_channels": 4}}, "model.in_channels 4"),
    ],
)
def test_what_cannot_learn_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        made(**changes)
