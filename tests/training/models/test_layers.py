"""What keeps less for backward gives the outputs and gradients of the plain form."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from training.models.attention import attend
from training.models.layers import activated_linear, norm_linear, scaled
from training.models.packing import Subset, pack, put, take, unpack

GROUPS = ((2, 5), (3, 3))  # crops, tokens of each


def leaves(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def layers() -> tuple[nn.LayerNorm, nn.Linear]:
    torch.manual_seed(1)
    norm, linear = nn.LayerNorm(6).double(), nn.Linear(6, 4).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm, linear


def compare(found: torch.Tensor, expected: torch.Tensor, inputs: list[torch.Tensor], tolerance: float = 1e-7) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    direction = torch.randn_like(found)
    every = [torch.autograd.grad(out, inputs, direction, retain_graph=True) for out in (found, expected)]
    for one, other in zip(*every, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_norm_and_linear():
    (x,), (norm, linear) = leaves((7, 6)), layers()
    inputs = [x, *norm.parameters(), *linear.parameters()]
    compare(norm_linear(x, norm, linear), linear(norm(x)), inputs)


@pytest.mark.parametrize("activation", [functional.gelu, lambda x: functional.silu(x[:, :3]) * x[:, 3:]])
def test_activation_and_scaled_linear(activation):
    x, factor = leaves((7, 6), (4,))
    linear = nn.Linear(activation(x).shape[1], 4).double()
    found = activated_linear(x, activation, *scaled(linear, factor, x.dtype))
    compare(found, factor * linear(activation(x)), [x, factor, *linear.parameters()])


def test_attention_stays_within_a_crop():
    (qkv,) = leaves((19, 3 * 8))
    expected = []
    for crops in unpack(qkv, GROUPS):
        q, k, v = crops.unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        out = functional.scaled_dot_product_attention(q, k, v)
        expected.append(out.transpose(1, 2).reshape(-1, 8))
    compare(attend(qkv, GROUPS, 2), torch.cat(expected), [qkv], 1e-5)  # the softmax is computed in fp32


def test_attention_in_bf16_is_near():
    qkv = torch.randn(19, 3 * 64)
    found = attend(qkv.bfloat16(), GROUPS, 1)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), attend(qkv, GROUPS, 1), rtol=0.05, atol=0.03)


def test_packing_goes_both_ways():
    crops = [torch.randn(2, 5, 4), torch.randn(3, 3, 4)]
    row, groups = pack(crops)
    assert (row.shape, groups) == ((19, 4), GROUPS)
    assert all(torch.equal(one, other) for one, other in zip(unpack(row, groups), crops, strict=True))


def test_a_branch_on_a_subset_is_one_on_all_with_factors():
    weight, *crops = leaves((4, 4), (8, 5, 4), (6, 3, 4))
    row, groups = pack(crops)
    subset = Subset(groups, 0.4, row.device)
    factors = subset.factors()
    assert factors.unique().tolist() == pytest.approx([0, 8 / 4, 6 / 3])
    expected = row + factors.unsqueeze(1) * torch.tanh(row @ weight)
    twice = expected + factors.unsqueeze(1) * torch.tanh(expected @ weight)
    found, _ = pack(crops)
    for _ in range(2):
        found, kept = take(found, subset)
        assert kept.shape == (4 * 5 + 3 * 3, 4)
        found = put(found, torch.tanh(kept @ weight), subset)
    compare(found, twice, [weight, *crops])


def test_every_crop_is_kept_equally_often_and_independently_of_the_other_group():
    torch.manual_seed(0)
    drawn = [Subset(((10, 1), (10, 1)), 0.4, torch.device("cpu")).factors() > 0 for _ in range(400)]
    kept = torch.stack(drawn).float()
    assert (kept.sum(1) == 12).all()
    assert (kept.mean(0) - 0.6).abs().max() < 0.1
    assert any(not torch.equal(one[:10], one[10:]) for one in kept)
    assert Subset(((1, 2), (0, 3)), 0.9, torch.device("cpu")).factors().tolist() == [1, 1]
