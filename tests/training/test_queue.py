"""The queue of class tokens that Sinkhorn balances with the batch."""

import pytest
import torch
from pydantic import ValidationError

from tests.training.commands import assert_equal
from tests.training.small import make_release, settings
from tests.training.test_train import stop_after
from training.config import Recipe
from training.data.loader import Batches
from training.data.release import Release
from training.schedules import at
from training.train import Trainer, train

QUEUE = {"losses": {"queue": 6}}


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return make_release(tmp_path_factory.mktemp("data") / "release")


def test_it_holds_the_newest_samples_oldest_first_and_both_crops_of_each(release, tmp_path):
    recipe = settings(release, tmp_path, QUEUE).recipe
    trainer, data, put = Trainer(recipe), Batches(Release(release), recipe), []
    queue = trainer.model.cls_queue
    for step in range(3):
        _, memory = trainer.model.losses([data[step]], 0.07)
        put += list(memory["cls_queue"][-4:])
        trainer.update(data[step], at(recipe, step))
        expected = torch.stack(put[-6:])
        assert torch.equal(queue[-len(expected) :], expected)
        assert not queue[: -len(expected)].any()
    assert torch.equal(queue[-1, 1], put[-1][1])
    assert not torch.equal(queue[-1, 0], queue[-1, 1])
    torch.testing.assert_close(queue.norm(dim=-1), torch.ones(6, 2))


def test_it_changes_the_targets_from_the_second_step_on(release, tmp_path):
    found = []
    for changes in ({}, QUEUE):
        recipe = settings(release, tmp_path, changes).recipe
        trainer, data = Trainer(recipe), Batches(Release(release), recipe)
        found.append([trainer.update(data[step], at(recipe, step))["loss_dino_global"].item() for step in range(2)])
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert found[0][1] != pytest.approx(found[1][1], rel=1e-6)


def test_a_run_that_was_stopped_has_it_back_to_the_last_bit(release, tmp_path, monkeypatch):
    train(settings(release, tmp_path / "whole", QUEUE))
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            train(settings(release, tmp_path / "parts", QUEUE))
    train(settings(release, tmp_path / "parts", QUEUE))
    assert_equal(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({"centering": "softmax"}, "queue: softmax centering keeps a mean over batches already"),
        ({"dino_weight": 0.0}, "queue holds class tokens, but dino_weight is 0"),
    ],
)
def test_it_is_refused_where_nobody_would_read_it(losses, message):
    with pytest.raises(ValidationError, match=message):
        Recipe.model_validate({"steps": 1, "batch_size_global": 4, "losses": {"queue": 8, **losses}})
