import math

import pytest
import torch
from torch.nn import functional

from training.losses.centering import moved_center, softmax_around
from training.losses.cross_entropy import cross_entropy
from training.losses.dino import dino_global, dino_local
from training.losses.ibot import ibot
from training.losses.koleo import koleo
from training.losses.sinkhorn import sinkhorn

K, B, L = 64, 5, 8


def distributions(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).softmax(-1)


def test_cross_entropy_is_torchs():
    scores, targets = torch.randn(7, K), distributions(7, K)
    expected = functional.cross_entropy(scores / 0.1, targets, reduction="none")
    torch.testing.assert_close(cross_entropy(scores, targets, 0.1), expected)


def test_terms_at_initialisation_are_the_published_shares_of_ln_k():
    targets = distributions(2, B, K)
    assert dino_local(torch.zeros(L, B, K), targets, 0.1).item() == pytest.approx(8 / 9 * math.log(K), rel=1e-5)
    assert dino_global(torch.zeros(2, B, K), targets, 0.1, L).item() == pytest.approx(1 / 9 * math.log(K), rel=1e-5)
    # 2 B = 10 crops, 5 of them masked, with 1 to 5 patches
    weights = torch.cat([torch.full((count,), 1 / count) for count in range(1, 6)])
    value = ibot(torch.zeros(len(weights), K), distributions(len(weights), K), weights, 2 * B, 0.1)
    assert value.item() == pytest.approx(0.5 * math.log(K), rel=1e-5)


def test_global_crops_are_compared_crosswise():
    targets = torch.eye(4)[torch.tensor([[0, 1], [2, 3]])]  # image 0: crops 0, 2; image 1: crops 1, 3
    crossed = targets.flip(0) * 10
    assert dino_global(crossed, targets, 0.1, 0).item() < 1e-6
    assert dino_global(targets * 10, targets, 0.1, 0).item() > 10


def test_local_term_is_the_mean_over_all_pairs():
    scores, targets = torch.randn(3, B, K), distributions(2, B, K)
    pairs = [functional.cross_entropy(s / 0.1, t) for s in scores for t in targets]
    assert dino_local(scores, targets, 0.1).item() == pytest.approx(sum(pairs).item() / 8, rel=1e-5)


def test_sinkhorn_rows_are_distributions_and_columns_are_balanced():
    scores = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    q = sinkhorn(scores, 0.5, num_iterations=50)
    torch.testing.assert_close(q.sum(1), torch.ones(200))
    torch.testing.assert_close(q.sum(0), torch.full((8,), 25.0), rtol=1e-3, atol=0)


def test_sinkhorn_equals_the_published_form_where_that_is_safe():
    scores, temp = 0.5 * torch.randn(30, 12, dtype=torch.float64), 0.07
    q = torch.exp(scores / temp).T
    q /= q.sum()
    for _ in range(3):
        q /= q.sum(1, keepdim=True) * 12
        q /= q.sum(0, keepdim=True) * 30
    torch.testing.assert_close(sinkhorn(scores, temp), (q * 30).T.float(), rtol=1e-4, atol=1e-7)


def test_sinkhorn_survives_scores_that_overflow_an_exponential():
    scores = torch.tensor([[100.0, 0.0], [0.0, -100.0], [50.0, 60.0]])
    assert sinkhorn(scores, 0.04).isfinite().all()
    assert sinkhorn(torch.empty(0, 4), 0.04).shape == (0, 4)


def test_koleo_of_known_points():
    square = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    assert koleo(5 * square).item() == pytest.approx(-math.log(math.sqrt(2)), abs=1e-5)
    twins = torch.tensor([[1.0, 0], [1, 0]])
    assert koleo(twins.half()).isfinite()
    assert koleo(twins).item() > 10
    with torch.autocast("cpu", torch.bfloat16):
        assert koleo(square).dtype == torch.float32


def test_the_centre_lags_and_moves_by_a_tenth():
    scores = torch.tensor([[2.0, 0.0], [4.0, 0.0]])
    center = moved_center(torch.zeros(2), scores)
    torch.testing.assert_close(center, torch.tensor([0.3, 0.0]))
    torch.testing.assert_close(softmax_around(center.expand(3, 2), center, 0.04), torch.full((3, 2), 0.5))
