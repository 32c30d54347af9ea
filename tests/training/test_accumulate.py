"""A batch in parts is the batch: the same losses and gradients, the same memory of it."""

import pytest
import torch

from tests.training.small import make_release, settings
from tests.training.test_dinov2 import HEAD, TEMP, made
from training.data.loader import Batch, Batches
from training.data.release import Release
from training.dinov2 import DINOv2
from training.schedules import at
from training.train import Trainer, train

UNTIED = {"dino": HEAD, "ibot": HEAD | {"prototypes": 30, "bottleneck": 7}}


def learnt(model: DINOv2, batch: Batch, count: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Gradients, and the losses and what is remembered."""
    model.zero_grad()
    shares, memory = model.losses(batch.parts(count), TEMP)
    sums: dict[str, torch.Tensor] = {}
    for share in shares:
        share["loss"].backward()
        sums = {name: sums.get(name, 0) + value.detach() for name, value in share.items()}
    return {name: p.grad for name, p in model.student.named_parameters()}, {**sums, **memory}


@pytest.mark.parametrize(
    "changes",
    [
        {"heads": UNTIED},
        {"losses": {"queue": 9}},
        {"losses": {"centering": "softmax", "koleo_weight": 0.0}},
        {"losses": {"dino_weight": 0.0}, "masking": {"probability": 0.2}},  # one of twelve crops: parts without a mask
        {
            "losses": {"ibot_weight": 0.0, "koleo_weight": 0.0},
            "crops": {"global_size": 32, "local_size": 16, "num_local": 0},
        },
    ],
    ids=["untied", "queue", "softmax", "ibot", "two crops"],
)
def test_losses_gradients_and_memory_do_not_depend_on_the_number_of_parts(changes):
    model, batch = made(batch_size_global=6, **changes)
    model.student.train()
    if "cls_queue" in dict(model.named_buffers()):
        model.cls_queue[4:] = torch.nn.functional.normalize(torch.randn(5, 2, 12), dim=-1)
    gradients, values = learnt(model, batch, 1)
    for count in (2, 6):
        others, found = learnt(model, batch, count)
        assert set(found) == set(values)
        for name, value in values.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
        assert {name for name, value in others.items() if value is None} == {
            name for name, value in gradients.items() if value is None
        }
        difference = {name: (others[name] - value).norm() for name, value in gradients.items() if value is not None}
        for name, distance in difference.items():
            assert distance <= 1e-3 * gradients[name].norm() + 1e-7, name
        whole = torch.stack([value.norm() for value in gradients.values() if value is not None]).norm()
        # KoLeo divides by distances, which enlarges the last bits
        tolerance = 1e-4 if model.recipe.losses.koleo_weight else 1e-5
        assert torch.stack(list(difference.values())).norm() < tolerance * whole


def test_parts_are_samples_of_the_batch_with_their_masks(tmp_path):
    made = settings(make_release(tmp_path / "release", corrupt=3), tmp_path).recipe
    batch = Batches(Release(tmp_path / "release"), made)[1]
    assert batch.parts(1) == [batch]
    for count in (2, 4):
        parts = batch.parts(count)
        for name, crops in (("global_crops", 2), ("local_crops", 2), ("masks", 2)):
            by_sample = torch.cat([getattr(part, name).unflatten(0, (crops, -1)) for part in parts], 1).flatten(0, 1)
            assert torch.equal(by_sample, getattr(batch, name))
        for part in parts:
            assert torch.equal(part.mask_indices, part.masks.flatten().nonzero().flatten())
            weights = part.masks / part.masks.sum(1, keepdim=True).clamp(min=1)
            assert torch.equal(part.mask_weights, weights[part.masks])
        assert sum(part.num_unreadable for part in parts) == batch.num_unreadable


def test_a_run_in_parts_ends_near_one_with_whole_batches(tmp_path):
    """Stochastic depth draws other crops, so that only without it a run is the same."""
    release = make_release(tmp_path / "release")
    recipe = settings(release, tmp_path, {"model": made()[0].recipe.model.model_dump()}).recipe
    ends = []
    for accumulate in (1, 4):
        trainer, data = Trainer(recipe, accumulate=accumulate), Batches(Release(release), recipe)
        for step in range(3):
            scalars = trainer.update(data[step], at(recipe, step))
        assert int(scalars["nonfinite_steps"]) == 0
        ends.append(torch.cat([p.flatten() for p in trainer.model.teacher.parameters()]))
    torch.testing.assert_close(*ends, rtol=0, atol=1e-4)


def test_stochastic_depth_in_parts_is_sound_and_the_same_every_time(tmp_path):
    release = make_release(tmp_path / "release")
    recipe = settings(release, tmp_path).recipe  # drop_path 0.3
    data, found = Batches(Release(release), recipe), []
    for _ in range(2):
        trainer = Trainer(recipe, accumulate=2)
        found.append(trainer.update(data[0], at(recipe, 3)))
    assert found[0]["loss"].isfinite()
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_parts_that_are_not_equal_are_refused(tmp_path):
    release = make_release(tmp_path / "release", num_images=4)
    with pytest.raises(ValueError, match=r"runtime\.accumulate = 3: the 4 samples .* choose a divisor of 4"):
        train(settings(release, tmp_path / "run", runtime={"accumulate": 3}))
