import torch

from training.copies.whiten import FLOOR, whitened


def test_whitened_outputs_are_centred_and_of_unit_covariance():
    generator = torch.Generator().manual_seed(0)
    pooled = torch.rand(500, 6, generator=generator) @ torch.rand(6, 6, generator=generator)
    tensors = {
        "projection.weight": torch.randn(4, 6, generator=generator),
        "projection.bias": torch.randn(4, generator=generator),
        "backbone.x": torch.ones(1),
    }
    outputs = pooled @ tensors["projection.weight"].T + tensors["projection.bias"]
    folded = whitened(tensors, outputs)
    white = pooled @ folded["projection.weight"].T + folded["projection.bias"]
    variances = torch.linalg.eigvalsh(torch.cov(white.T))
    before = torch.linalg.eigvalsh(torch.cov(outputs.T))
    assert torch.allclose(white.mean(dim=0), torch.zeros(4), atol=1e-3)
    assert torch.allclose(variances.sort().values, (before / (before + FLOOR * before.max())).sort().values, atol=1e-2)
    assert torch.equal(folded["backbone.x"], tensors["backbone.x"])
