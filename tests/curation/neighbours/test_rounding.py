import numpy as np
import pytest
import torch

from curation.neighbours.rounding import round_rows


def rounded(vectors):
    bits = np.empty(vectors.shape, np.int16)
    longest, moved = round_rows(vectors, bits)
    return torch.from_numpy(bits).view(torch.bfloat16), longest, moved


def every_half():
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    return halves[np.isfinite(halves)].reshape(-1, 31)


def singles():
    bits = np.random.default_rng(0).integers(0, 2**32, 2**16, dtype=np.uint32)
    ties = (bits[:4096] & np.uint32(0xFFFF0000)) | np.uint32(0x8000)
    values = np.concatenate([bits, ties]).view(np.float32)
    return values[np.abs(values) < 2.0**60][:50_000].reshape(-1, 25)  # NaN compares false


@pytest.mark.parametrize("vectors", [every_half(), singles()], ids=["float16", "float32"])
def test_rows_are_rounded_as_torch_does(vectors):
    values, longest, moved = rounded(vectors)
    exact = torch.from_numpy(vectors)
    assert torch.equal(values, exact.bfloat16())
    assert longest == pytest.approx(exact.double().norm(dim=1).max().item(), rel=1e-5)
    assert moved == pytest.approx((exact.double() - values.double()).norm(dim=1).max().item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_infinitely_long(dtype, value):
    vectors = np.ones((5, 40), dtype)
    vectors[3, 7] = value
    assert rounded(vectors)[1] == np.inf
    assert rounded(vectors[:3])[1:] == (pytest.approx(40**0.5), 0)


def test_a_length_that_overflows_is_infinite():
    assert rounded(np.full((2, 3), 1e30, np.float32))[1] == np.inf
