import math
import threading

import pytest
import torch
from torch.nn import functional

from training.losses.centering import moved_center, softmax_around_
from training.losses.cross_entropy import cross_entropy
from training.losses.dino import dino_targets, dino_terms
from training.losses.ibot import ibot
from training.losses.koleo import koleo, koleo_among
from training.losses.sinkhorn import sinkhorn_

K, B, L = 64, 5, 8


def distributions(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).softmax(-1)


def parts(rows: int) -> list[torch.Tensor]:
    """Unit vectors, directions and gains of prototypes, as leaves."""
    torch.manual_seed(1)
    x = functional.normalize(torch.randn(rows, 7), dim=-1)
    return [x.requires_grad_(), torch.randn(K, 7, requires_grad=True), (0.5 + torch.rand(K, 1)).requires_grad_()]


@pytest.mark.parametrize("chunk", [1, 5 * 9, 10**6])  # one prototype, nine (which does not divide K), all at once
def test_cross_entropy_and_its_gradients_are_torchs(chunk):
    x, directions, gains = parts(5)
    targets, weights = (
        distributions(5, K) * torch.tensor([1.0, 2, 1, 0, 1]).unsqueeze(1),
        torch.tensor([1.0, 2, 3, 4, 0]),
    )
    found = cross_entropy(x, directions, gains, lambda part: targets[:, part], 0.1, torch.float32, chunk)
    scores = x @ (gains * functional.normalize(directions, dim=-1)).T
    expected = -(targets * functional.log_softmax(scores / 0.1, -1)).sum(-1)
    torch.testing.assert_close(found, expected)
    one = torch.autograd.grad((weights * found).sum(), (x, directions, gains))
    other = torch.autograd.grad((weights * expected).sum(), (x, directions, gains))
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_cross_entropy_with_bf16_products_is_near():
    x, directions, gains = parts(50)
    targets = distributions(50, K)
    near, exact = (
        cross_entropy(x, directions, gains, lambda part: targets[:, part], 0.1, dtype)
        for dtype in (torch.bfloat16, torch.float32)
    )
    assert near.dtype == torch.float32
    torch.testing.assert_close(near, exact, rtol=0.02, atol=0.02)


def test_cross_entropy_takes_prototypes_that_were_gathered_in_bf16():
    x, *prototypes = parts(50)
    half = [value.detach().bfloat16().requires_grad_() for value in prototypes]
    exact = [value.detach().float().requires_grad_() for value in half]
    targets, found = distributions(50, K), []
    for leaves in (half, exact):
        loss = cross_entropy(x, *leaves, lambda part: targets[:, part], 0.1, torch.bfloat16).mean()
        found.append((loss, *torch.autograd.grad(loss, leaves)))
    assert found[0][1].dtype == torch.bfloat16
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one.float(), other, rtol=1e-2, atol=1e-6)


def test_terms_at_initialisation_are_the_published_shares_of_ln_k():
    # of equal scores: every crop's cross-entropy with a distribution is ln K, with two 2 ln K
    sums = dino_targets(distributions(2 * B, K), L).sum(1)
    terms = dino_terms(sums * math.log(K), L)
    assert terms["dino_local"].item() == pytest.approx(8 / 9 * math.log(K), rel=1e-5)
    assert terms["dino_global"].item() == pytest.approx(1 / 9 * math.log(K), rel=1e-5)
    # 2 B = 10 crops, 5 of them masked, with 1 to 5 patches
    weights = torch.cat([torch.full((count,), 1 / count) for count in range(1, 6)])
    value = ibot(torch.full((len(weights),), math.log(K)), weights, 2 * B)
    assert value.item() == pytest.approx(0.5 * math.log(K), rel=1e-5)


def test_global_crops_are_compared_crosswise_and_local_ones_with_both():
    teacher = torch.eye(4)[torch.tensor([0, 1, 2, 3])]  # image 0: crops 0, 2; image 1: crops 1, 3
    student = dino_targets(teacher, 2)
    assert student[:4].argmax(1).tolist() == [2, 3, 0, 1]
    assert student[4:].tolist() == [[1, 0, 1, 0], [0, 1, 0, 1]] * 2
    assert "dino_local" not in dino_terms(torch.ones(4), 0)


def test_sinkhorn_rows_are_distributions_and_columns_are_balanced():
    scores = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    q = sinkhorn_(scores, 0.5, num_iterations=50)
    assert q is scores
    torch.testing.assert_close(q.sum(1), torch.ones(200))
    torch.testing.assert_close(q.sum(0), torch.full((8,), 25.0), rtol=1e-3, atol=0)


@pytest.mark.parametrize("num_iterations", [1, 2, 3])
def test_a_row_of_weight_0_is_as_if_it_were_not_there(num_iterations):
    scores, counts = torch.randn(60, 8, generator=torch.Generator().manual_seed(0)), torch.rand(60) < 0.5
    alone = sinkhorn_(scores[counts].clone(), 0.1, num_iterations)
    torch.testing.assert_close(sinkhorn_(scores.clone(), 0.1, num_iterations, counts)[counts], alone)


def test_a_queue_lends_a_small_batch_the_balance_of_a_large_one():
    """Two samples cannot use eight prototypes evenly; among 200 they do what they would do in a batch of 200."""
    scores = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    every = sinkhorn_(scores.clone(), 0.5, 50, torch.ones(200))
    torch.testing.assert_close(every.sum(0), torch.full((8,), 25.0), rtol=1e-3, atol=0)
    torch.testing.assert_close(every.sum(1), torch.ones(200))
    assert (sinkhorn_(scores[-2:].clone(), 0.5, 50) - every[-2:]).abs().max() > 0.1


@pytest.mark.parametrize("num_iterations", [1, 2, 3])
def test_sinkhorn_equals_the_published_form_where_that_is_safe(num_iterations):
    scores, temp = 0.5 * torch.randn(30, 12, dtype=torch.float64), 0.07
    q = torch.exp(scores / temp).T
    q /= q.sum()
    for _ in range(num_iterations):
        q /= q.sum(1, keepdim=True) * 12
        q /= q.sum(0, keepdim=True) * 30
    torch.testing.assert_close(
        sinkhorn_(scores.float(), temp, num_iterations), (q * 30).T.float(), rtol=1e-4, atol=1e-7
    )


def test_sinkhorn_survives_scores_that_overflow_and_underflow_an_exponential():
    scores = torch.tensor([[100.0, 0.0, -300], [0.0, -100.0, -300], [50.0, 60.0, -300]])
    q = sinkhorn_(scores.clone(), 0.04)
    assert q.isfinite().all()
    exact = scores.double() / 0.04
    for _ in range(3):
        exact = exact - exact.logsumexp(0, keepdim=True)
        exact = exact - exact.logsumexp(1, keepdim=True)
    torch.testing.assert_close(q, exact.exp().float(), rtol=1e-4, atol=1e-6)
    assert sinkhorn_(torch.empty(0, 4), 0.04).shape == (0, 4)


def test_sinkhorn_and_the_centre_over_processes_are_those_of_one():
    scores = torch.randn(9, 6, generator=torch.Generator().manual_seed(2))
    whole, center = sinkhorn_(scores.clone(), 0.1), moved_center(torch.zeros(6), scores)
    found, centers = in_threads(
        lambda logsumexp, total, part=part: (
            sinkhorn_(part.clone(), 0.1, logsumexp=logsumexp, total=total),
            moved_center(torch.zeros(6), part, total),
        )
        for part in (scores[:4], scores[4:], scores[:0])
    )
    torch.testing.assert_close(torch.cat(found), whole)
    for one in centers:
        torch.testing.assert_close(one, center)


def in_threads(workers):
    """Run each in a thread of its own; what they reduce waits for all."""
    workers = list(workers)
    barrier, shared, results = threading.Barrier(len(workers)), [None] * len(workers), [None] * len(workers)

    def run(rank):
        def every(values):
            shared[rank] = values.clone()
            barrier.wait()
            stacked = torch.stack(shared)
            barrier.wait()
            return stacked

        results[rank] = workers[rank](lambda rows: every(rows).logsumexp(0), lambda values: every(values).sum(0))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(workers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return zip(*results, strict=True)


def test_koleo_of_known_points():
    square = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    assert koleo(5 * square).item() == pytest.approx(-math.log(math.sqrt(2)), abs=1e-5)
    twins = torch.tensor([[1.0, 0], [1, 0]])
    assert koleo(twins.half()).isfinite()
    assert koleo(twins).item() > 10
    with torch.autocast("cpu", torch.bfloat16):
        assert koleo(square).dtype == torch.float32


def test_koleo_of_parts_has_the_value_and_the_gradient_of_the_whole():
    features = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)  # crops, images
    whole = koleo(features[0]) + koleo(features[1])
    values = [
        koleo_among(features[:, 2 * part : 2 * part + 2].flatten(0, 1), features.detach(), part, 3) for part in range(3)
    ]
    for value in values:
        torch.testing.assert_close(value, whole)
    mean, expected = (torch.autograd.grad(x, features)[0] for x in (sum(values) / 3, whole))
    torch.testing.assert_close(mean, expected)


def test_the_centre_lags_and_moves_by_a_tenth():
    scores = torch.tensor([[2.0, 0.0], [4.0, 0.0]])
    center = moved_center(torch.zeros(2), scores)
    torch.testing.assert_close(center, torch.tensor([0.3, 0.0]))
    torch.testing.assert_close(softmax_around_(center.repeat(3, 1), center, 0.04), torch.full((3, 2), 0.5))
