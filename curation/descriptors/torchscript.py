"""Embedders from a TorchScript file, the form in which SSCD's authors publish their copy detectors.

For ``sscd_disc_mixup.torchscript.pt``: ``size: 320``, ``resize: squash``, ImageNet's mean and std (the defaults).
A TorchScript file holds code, so it is loaded only when its hash is the known one.
"""

import io

import torch

from curation.descriptors.base import EmbedderSpec
from curation.descriptors.trained import TrainedEmbedder
from curation.weights import read_weights


def load_torchscript(spec: EmbedderSpec) -> TrainedEmbedder:
    """Load a scripted or traced network.

    Raises:
        ValueError: the file is missing, has another hash, is no TorchScript, or does not fit the size.
    """
    assert spec.weights is not None
    assert spec.sha256 is not None
    data = read_weights(spec.weights, spec.sha256)
    try:
        network = torch.jit.load(io.BytesIO(data), map_location="cpu")
    except RuntimeError as error:
        raise ValueError(f"weights {spec.weights} are no TorchScript: {str(error).splitlines()[0]}") from error
    return TrainedEmbedder(f"torchscript:{spec.sha256[:12]}", network, spec)
