import pytest
import timm
import torch
from torch import nn

from curation.descriptors.folded import folded_backbone

SMALL = [
    ("resnet10t", {"channels": [8, 8, 16, 16], "stem_width": 8}),
    ("tf_efficientnet_lite0", {}),
]


def _trained(name, options):
    """A network whose normalisations have moments and scales, as after a training."""
    torch.manual_seed(0)
    network = timm.create_model(name, pretrained=False, num_classes=5, **options)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.5, 2)
            for tensor in (module.running_mean, module.bias.data):
                tensor.normal_()
    return network.eval()


@pytest.mark.parametrize(("name", "options"), SMALL)
def test_a_folded_network_gives_the_same_maps_without_normalisation(name, options):
    whole = _trained(name, options)
    folded = folded_backbone(name, options, whole.state_dict())
    pictures = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        assert torch.allclose(folded(pictures), whole.forward_features(pictures), atol=1e-2)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())


def test_tensors_of_another_spelling_are_taken_in_order():
    name, options = SMALL[1]
    whole = _trained(name, options)
    renamed = {f"_{i}": tensor for i, tensor in enumerate(whole.state_dict().values())}
    pictures = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(
            folded_backbone(name, options, renamed)(pictures), whole.forward_features(pictures), atol=1e-2
        )


def test_weights_of_another_network_are_refused_by_name_and_shape():
    (name, options), (other, other_options) = SMALL
    with pytest.raises(ValueError, match=r"do not fit tf_efficientnet_lite0: conv_stem\.weight has"):
        folded_backbone(other, other_options, _trained(name, options).state_dict())


def test_a_network_without_batch_normalisation_after_convolutions_is_refused():
    with pytest.raises(ValueError, match="follow a convolution"):
        folded_backbone("resnetv2_18", {})
