"""Trained torchvision networks as classifiers: logits as before, maps that average to them."""

import pytest
import torch
import torchvision

from camflow.errors import ConfigError
from camflow.models.pretrained import from_torchvision

NETWORKS = ["resnet18", "mobilenet_v2", "shufflenet_v2_x0_5", "mnasnet0_5", "regnet_y_400mf", "squeezenet1_1"]


def network(name, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torchvision.models.get_model(name, weights=None, **options)
    for last in [m for m in net.modules() if isinstance(m, torch.nn.Linear)][-1:]:
        torch.nn.init.normal_(last.weight)  # drawn weights are so small that any logits would agree
        torch.nn.init.normal_(last.bias)
    return net.eval()


@pytest.mark.parametrize("name", NETWORKS)
@torch.inference_mode()
def test_logits_are_the_network_s_and_maps_explain_them(name):
    net = network(name, num_classes=7)
    model = from_torchvision(net)
    x = torch.randn(2, 3, 65, 97, generator=torch.Generator().manual_seed(1))
    logits = net(x)
    assert torch.allclose(model(x), logits, atol=1e-4 * float(logits.abs().max()))
    maps = model.score_maps(x) + model.bias[:, None, None]
    means = (maps.relu() if name.startswith("squeeze") else maps).mean(dim=(2, 3))
    assert torch.allclose(means, logits, atol=1e-4 * float(logits.abs().max()))
    assert model.class_names == [str(n) for n in range(7)] and not model.training


@torch.inference_mode()
def test_a_smaller_stride_leaves_the_network_as_it_was():
    net = network("resnet18")
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    before = net(x)
    model = from_torchvision(net, output_stride=16)
    assert model.stride == 16 and model.score_maps(x).shape == (1, 1000, 4, 4)
    assert torch.equal(net(x), before) and net.layer4[0].conv1.stride == (2, 2)
    assert from_torchvision(net).score_maps(x).shape == (1, 1000, 2, 2)


@pytest.mark.parametrize("name", ["alexnet", "mobilenet_v3_small", "convnext_tiny", "vit_b_16"])
def test_networks_without_a_class_activation_map_are_refused(name):
    with torch.device("meta"):
        net = torchvision.models.get_model(name, weights=None)
    with pytest.raises(ConfigError, match="need a network that ends in global average pooling and one linear layer"):
        from_torchvision(net)


def test_wrong_arguments():
    net = network("squeezenet1_1", num_classes=3)
    with pytest.raises(ConfigError, match="2 class names for 3 classes"):
        from_torchvision(net, ["a", "b"])
    with pytest.raises(ConfigError, match="cannot have output_stride 5"):
        from_torchvision(net, output_stride=5)
