import math

import pytest
import torch
import torch.nn.functional as F

from training.processes import ALONE
from training.watch.health import Health, effective_rank, nearest_distance, perplexity


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize("shape", [(40, 12), (12, 40)])
def test_the_effective_rank_is_that_of_the_singular_values(shape):
    features = unit(*shape)
    shares = torch.linalg.svdvals(features.double())
    shares = shares / shares.sum()
    assert effective_rank(features).item() == pytest.approx(math.exp(-(shares * shares.log()).sum()), rel=1e-5)


def test_effective_ranks_that_are_known():
    assert effective_rank(torch.eye(7)).item() == pytest.approx(7)
    assert effective_rank(unit(1, 300).expand(1000, 300)).item() == pytest.approx(1, abs=1e-3)
    flat = F.normalize(torch.cat((unit(500, 3), torch.zeros(500, 60)), 1), dim=1)
    assert effective_rank(flat).item() == pytest.approx(3, abs=0.1)


def test_the_nearest_of_the_others():
    features = unit(30, 5)
    every = torch.cdist(features.double(), features.double()) + 9 * torch.eye(30)
    assert nearest_distance(features).item() == pytest.approx(every.amin(1).mean().item(), rel=1e-5)
    assert nearest_distance(features[:1].expand(4, -1)) == 0


def test_how_many_weights_count():
    assert perplexity(torch.full((9,), 3.0)).item() == pytest.approx(9)
    assert perplexity(torch.tensor([5.0, 0.0, 0.0])).item() == pytest.approx(1)


def panel_of(tokens, targets, scores=None, steps=1, every=1):
    health = Health(every, len(tokens) // 2, ALONE)
    for step in range(1, steps + 1):
        health.prepare(step)
        health.note_scores(targets if scores is None else scores)
        health.note(tokens[: len(tokens) // 2], targets)
        found = health.panel(step)
    return {name: value.item() for name, value in found.items()}


def test_a_panel_of_sharp_and_of_flat_targets():
    tokens = unit(16, 24)
    sharp = panel_of(tokens, torch.eye(16), torch.full((16, 16), -4.0))
    assert sharp["health_teacher_entropy"] == pytest.approx(0, abs=1e-6)
    assert sharp["health_prototype_use"] == pytest.approx(1)
    assert sharp["health_prototype_perplexity"] == pytest.approx(1)
    assert sharp["health_largest_logit"] == 4
    assert sharp["health_features"] == 8  # one crop an image
    assert sharp["health_effective_rank"] == pytest.approx(effective_rank(tokens[:8]).item(), rel=1e-5)
    flat = panel_of(tokens, torch.full((16, 64), 1 / 64))
    assert flat["health_teacher_entropy"] == pytest.approx(1)
    assert flat["health_prototype_use"] == pytest.approx(1 / 16)


def test_only_the_steps_before_a_panel_are_noted():
    health = Health(500, 4, ALONE)  # 256 steps make 1,024 features
    tokens, targets = unit(8, 6), torch.eye(8)
    for step in range(1, 501):
        health.prepare(step)
        health.note_scores(targets)
        health.note(tokens[:4], targets)
        assert (len(health._features) > 0) == (step > 244)
        found = health.panel(step)
        assert bool(found) == (step == 500)
    assert found["health_features"] == 1024
    assert health._features == []
    health = Health(0, 4, ALONE)
    health.prepare(1)
    health.note(tokens[:4], targets)
    assert health.panel(1) == {}
