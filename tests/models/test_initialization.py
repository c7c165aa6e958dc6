import math

import pytest
import torch
from torch import nn

from normscope.errors import InputError
from normscope.models.initialization import initialize
from normscope.models.registry import build
from normscope.models.resnet import SmallResNet


def state(**options) -> dict[str, torch.Tensor]:
    return build(
        "small-resnet", in_channels=3, num_classes=10, image_size=8, **options
    ).state_dict()


def shared_and_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> set[str]:
    """Names that both have, every one with the same bits."""
    names = first.keys() & second.keys()
    assert [name for name in sorted(names) if not torch.equal(first[name], second[name])] == []
    return names


@pytest.mark.parametrize("scheme", ["default", "he"])
@pytest.mark.parametrize("norm", ["none", "group", "layer", "instance"])
def test_the_arms_of_a_comparison_share_every_weight_bit_for_bit(norm, scheme):
    batch, other = (state(norm=name, initialization=scheme, seed=3) for name in ("batch", norm))
    names = shared_and_equal(batch, other)
    weights = {name for name, tensor in batch.items() if tensor.dim() > 1}
    assert weights | {"fc.bias"} <= names


def test_blocks_share_every_layer_that_both_have():
    post, pre = (
        {name: tensor for name, tensor in state(block=block, seed=1).items() if tensor.dim() > 1}
        for block in ("post-activation", "pre-activation")
    )
    names = shared_and_equal(post, pre)
    assert {
        "stem.0.weight",
        "layer1.0.conv1.weight",
        "layer2.0.shortcut.0.weight",
        "fc.weight",
    } <= names


def test_depth_changes_no_layer_that_was_there():
    shallow, deep = state(seed=1), state(seed=1, blocks_per_stage=3)
    assert shared_and_equal(shallow, deep) == shallow.keys()


def test_every_drawn_parameter_depends_on_the_seed_and_the_name():
    first, second = state(norm="none", seed=0), state(norm="none", seed=1)
    assert [name for name in first if torch.equal(first[name], second[name])] == []
    assert not torch.equal(first["fc.bias"], first["fc.weight"].flatten()[:10])
    same_shape = [
        tensor for name, tensor in first.items() if name.startswith("layer1") and tensor.dim() == 4
    ]
    assert len({tuple(tensor.flatten()[:4].tolist()) for tensor in same_shape}) == 4


def test_the_default_scheme_has_pytorchs_distribution():
    weight, bias = (
        state(norm="none", widths=(64, 64), seed=0)[f"layer1.1.conv1.{part}"]
        for part in ("weight", "bias")
    )
    bound = 1 / math.sqrt(64 * 9)
    for tensor, n in ((weight, weight.numel()), (bias, bias.numel())):
        assert tensor.abs().max() <= bound
        assert abs(tensor.mean()) < 5 * bound / math.sqrt(3 * n)
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    reference = nn.Conv2d(64, 64, 3)
    assert reference.weight.std().item() == pytest.approx(weight.std().item(), rel=0.03)


def test_he_draws_normal_weights_of_variance_two_over_fan_in_and_no_biases():
    drawn = state(norm="none", widths=(64, 64), initialization="he")
    weight = drawn["layer1.0.conv1.weight"]
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.02)
    assert (weight.abs() > 2 * weight.std()).float().mean().item() == pytest.approx(
        0.0455, abs=0.005
    )  # normal tails
    assert all(not tensor.any() for name, tensor in drawn.items() if name.endswith("bias"))


def test_he_keeps_the_signals_scale_through_relu_layers():
    torch.manual_seed(0)
    layers = nn.Sequential(
        *(layer for _ in range(10) for layer in (nn.Linear(512, 512), nn.ReLU()))
    )
    initialize(layers, 0, "he")
    x = torch.randn(64, 512)
    assert layers(x).square().mean().item() == pytest.approx(x.square().mean().item(), rel=0.5)


@pytest.mark.parametrize("scheme", ["default", "he"])
def test_scale_multiplies_weights_of_convolutions_and_linear_layers_only(scheme):
    plain, scaled = (
        state(initialization=scheme, initialization_scale=scale) for scale in (1.0, 2.0)
    )
    for name, tensor in plain.items():
        factor = 2 if tensor.dim() > 1 else 1
        assert torch.equal(scaled[name], factor * tensor)


def test_initializing_again_restores_a_trained_network():
    model = SmallResNet()
    initialize(model, 5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(torch.randn(4, 3, 8, 8)).sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    initialize(model, 5)
    assert shared_and_equal(before, model.state_dict()) == before.keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "xavier"}, "Unknown initialization 'xavier'"),
        ({"scale": -1.0}, "scale is -1.0"),
        ({"scale": float("nan")}, "scale is nan"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        initialize(nn.Linear(2, 2), 0, **options)
