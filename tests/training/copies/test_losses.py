import math

import numpy as np
import torch

from training.copies import losses


def _vectors(num: int, dim: int, seed: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(num, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_views_share_content_when_any_source_is_common():
    contents = torch.tensor([[0, 0], [1, 1], [0, 1], [2, 2]])
    expected = [[0, 0, 1, 0], [0, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    assert losses.share_content(contents).int().tolist() == expected


def test_contrastive_term_equals_the_sum_written_out():
    contents = torch.tensor([[0, 0], [1, 1], [2, 2], [0, 1], [1, 1], [2, 2]])
    vectors, temperature = _vectors(6, 8, 0), 0.1
    positive = losses.share_content(contents)
    similarity = (vectors @ vectors.T / temperature).double().numpy()
    per_view = []
    for i in range(6):
        own, other = set(contents[i].tolist()), []
        friends = [j for j in range(6) if j != i and own & set(contents[j].tolist())]
        other = [j for j in range(6) if j != i and j not in friends]
        below = sum(math.exp(similarity[i, j]) for j in other)
        terms = [-math.log(math.exp(similarity[i, j]) / (math.exp(similarity[i, j]) + below)) for j in friends]
        per_view.append(sum(terms) / len(terms))
    assert np.isclose(float(losses.contrastive(vectors, positive, temperature)), np.mean(per_view), rtol=1e-5)


def test_entropy_is_minus_the_log_distance_to_the_nearest_other_content():
    vectors = torch.tensor([[1.0, 0.0], [0.8, 0.6], [-1.0, 0.0], [0.0, -1.0]])
    positive = losses.share_content(torch.tensor([[0, 0], [0, 0], [1, 1], [2, 2]]))
    # the first two show the same, so their nearest are the others: squared distances 2, 3.2 (to 2) or 3.2, 2, 2
    expected = -sum(0.5 * math.log(d) for d in (2.0, 3.2, 2.0, 2.0)) / 4
    assert math.isclose(float(losses.entropy(vectors, positive)), expected, rel_tol=1e-5)


def test_coinciding_vectors_give_finite_gradients():
    vectors = torch.ones(4, 3).div(math.sqrt(3)).requires_grad_()
    positive = losses.share_content(torch.tensor([[0, 0], [1, 1], [0, 0], [1, 1]]))
    (losses.contrastive(vectors, positive, 0.05) + losses.entropy(vectors, positive)).backward()
    assert vectors.grad is not None
    assert torch.isfinite(vectors.grad).all()
