"""Batch normalisation folded into the convolutions before it: one tensor operation less a layer, no running moments."""

from typing import Any

import timm
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


def folded_backbone(name: str, options: dict[str, Any], tensors: dict[str, torch.Tensor] | None = None) -> Any:
    """Timm's convolutional network without pooling and classifier, each batch normalisation part of its convolution.

    Args:
        name: of the architecture in timm.
        options: for ``timm.create_model``.
        tensors: the weights before folding, in timm's spelling or, under other names, in timm's order, with those of
            the classifier or without; None leaves it random.

    Returns:
        The network in evaluation mode, [n, 3, size, size] to [n, channels, h, w]; normalisation layers keep only their
        activation.

    Raises:
        ValueError: the tensors do not fit, or a normalisation does not follow a convolution.
    """
    network: Any = timm.create_model(name, pretrained=False, **{**options, "num_classes": 0, "global_pool": ""})
    if tensors is not None:
        _load(network, name, tensors)
    network = network.eval()
    probe = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = network(probe)
        _fold(network, name)
        if not torch.allclose(before, network(probe), rtol=1e-3, atol=1e-3 * float(before.abs().max())):
            raise ValueError(f"{name}: its normalisations do not each follow a convolution; choose another backbone")
    return network


def _load(network: Any, name: str, tensors: dict[str, torch.Tensor]) -> None:
    own = network.state_dict()
    if not own.keys() <= tensors.keys():
        tensors = dict(zip(own, tensors.values(), strict=False))
    for key, tensor in own.items():
        if key not in tensors or tensors[key].shape != tensor.shape:
            found = tuple(tensors[key].shape) if key in tensors else "nothing"
            raise ValueError(f"the weights do not fit {name}: {key} has {found}, not {tuple(tensor.shape)}")
    network.load_state_dict({key: tensors[key] for key in own})


def _fold(network: Any, name: str) -> None:
    convolution: nn.Conv2d | None = None
    for path, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            if convolution is None or convolution.out_channels != module.num_features:
                raise ValueError(f"{name}: {path} does not follow a convolution; choose another backbone")
            mean, variance = module.running_mean, module.running_var
            assert mean is not None, "timm's normalisations keep their running moments"
            assert variance is not None
            weight, bias = fuse_conv_bn_weights(
                convolution.weight, convolution.bias, mean, variance, module.eps, module.weight, module.bias
            )
            convolution.weight, convolution.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
            parent, _, leaf = path.rpartition(".")
            # timm's normalisation layers hold the activation that follows
            setattr(network.get_submodule(parent), leaf, getattr(module, "act", nn.Identity()))
            convolution = None
        elif isinstance(module, nn.Conv2d):
            convolution = module
