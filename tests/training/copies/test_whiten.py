import torch

from tests.training.copies.small import config
from training.copies.network import TrainedNetwork
from training.copies.whiten import FLOOR, start_projection


def test_the_first_vectors_are_centred_and_vary_alike(tmp_path):
    torch.manual_seed(0)
    network = TrainedNetwork(config(tmp_path).recipe.network).eval()
    views = torch.randint(0, 256, (300, 32, 32, 3), dtype=torch.uint8)
    start_projection(network, views.split(64))
    with torch.no_grad():
        pooled = network.pooled(views)
        outputs = network.descriptor.projection(pooled)
    before = torch.linalg.eigvalsh(torch.cov(pooled.double().T)).flip(0)[: outputs.shape[1]]
    assert torch.allclose(outputs.mean(dim=0), torch.zeros(outputs.shape[1]), atol=1e-2)
    covariance = torch.cov(outputs.double().T)
    assert torch.allclose(covariance, torch.diag(before / (before + FLOOR * before.max())), atol=2e-2)
