from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from tests.training.commands import assert_equal, rows, weights
from tests.training.small import make_release, settings
from training.config import Recipe
from training.data.order import sample_at
from training.phases import phase_at, phases, resized_positions
from training.train import Trainer, train

HIGH = {
    "steps": 3,
    "batch_size_global": 2,
    "model": {"image_size": 48},
    "crops": {"global_size": 48},
    "optimiser": {"base_lr": 1e-3, "warmup_steps": 1},
}
BASE = {"steps": 10, "batch_size_global": 4}


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    return make_release(tmp_path_factory.mktemp("data") / "release")


@pytest.fixture(scope="module")
def finished(release, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "whole"
    train(settings(release, output, {"phases": [HIGH]}))
    return output


def test_a_phase_says_what_differs_and_has_the_rest_from_above():
    small = {"model": {"patch_size": 8, "image_size": 32}, "crops": {"local_size": 96}}
    own = small | {"optimiser": {"warmup_steps": 2, "clip_norm": 1.0}, "phases": [HIGH]}
    recipe = Recipe.model_validate(BASE | own)
    (high,) = recipe.phases
    assert (high.optimiser.clip_norm, high.optimiser.warmup_steps, high.crops.local_size) == (1.0, 1, 96)
    assert (recipe.optimiser.warmup_steps, recipe.crops.global_size) == (2, 224)


def test_steps_and_samples_are_counted_on():
    recipe = Recipe.model_validate(BASE | {"phases": [{"steps": 5, "batch_size_global": 8}, {"steps": 1}]})
    assert [(p.first_step, p.first_sample, p.last_step) for p in phases(recipe)] == [
        (0, 0, 10),
        (10, 40, 15),
        (15, 80, 16),
    ]
    assert [phase_at(recipe, step).first_step for step in (0, 10, 11, 15, 16)] == [0, 0, 10, 10, 15]


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ({"seed": 1}, r"phases\.0\.seed: cannot change"),
        ({"model": {"arch": "vit_base"}}, r"phases\.0\.model: cannot change \(but model\.image_size\)"),
        ({"losses": {"centering": "softmax"}}, r"phases\.0\.losses: cannot change"),
        ({"phases": [{"steps": 1}]}, "a phase has no phases"),
        ({"crops": {"global_size": 225}}, "not a multiple of model.patch_size"),
        ({"stepz": 1}, "stepz"),
    ],
)
def test_what_cannot_change_on_the_way_is_refused(phase, message):
    with pytest.raises(ValidationError, match=message):
        Recipe.model_validate(BASE | {"phases": [phase]})


def test_the_second_phase_goes_on_with_sizes_and_schedules_of_its_own(finished):
    found = rows(finished)
    assert [row["step"] for row in found] == list(range(1, 10))
    assert found[6]["lr"] == 0  # the warm-up begins again
    assert found[7]["lr"] == pytest.approx(1e-3 * (2 / 1024) ** 0.5)
    assert found[8]["loss"] < 1.3 * found[0]["loss"]
    assert {value.shape[1] for name, value in weights(finished).items() if "pos_embed" in name} == {1 + 6 * 6}


@pytest.mark.parametrize("stop", [4, 6, 8])
def test_a_run_that_was_stopped_in_any_phase_ends_as_one_that_was_not(release, finished, tmp_path, monkeypatch, stop):
    whole = Trainer.update

    def update(self, batch, now):
        if self.step == stop:
            raise KeyboardInterrupt
        return whole(self, batch, now)

    made = settings(release, tmp_path, {"phases": [HIGH]}, {"checkpoint_every_steps": 2, "workers": 1})
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", update)
        with pytest.raises(KeyboardInterrupt):
            train(made)
    train(made)
    assert_equal(tmp_path, finished)


def test_samples_go_on_where_the_first_phase_ended(release, tmp_path, monkeypatch):
    from training.data import loader

    seen: list[int] = []
    monkeypatch.setattr(loader, "sample_at", lambda counter, *rest: seen.append(counter) or sample_at(counter, *rest))
    train(settings(release, tmp_path, {"phases": [HIGH]}))
    assert seen == list(range(6 * 4 + 3 * 2))


def test_positions_keep_their_places_on_a_finer_grid():
    rows_, columns = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    embed = torch.cat((torch.full((1, 1, 2), 9.0), torch.stack((rows_, columns), -1).reshape(1, 16, 2)), dim=1)
    finer = resized_positions(embed, 1 + 64)
    assert torch.equal(finer[:, 0], embed[:, 0])
    assert torch.equal(resized_positions(embed, 17), embed)
    grid = finer[0, 1:].unflatten(0, (8, 8))
    assert (grid[1:-1, :, 0].diff(dim=0) > 0.3).all()
    assert torch.allclose(grid[..., 0], grid[..., 1].T)
    assert torch.allclose(grid.mean((0, 1)), torch.tensor([1.5, 1.5]), atol=0.05)
