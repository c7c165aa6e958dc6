"""Noise behind batch normalization: its distribution, its seed, and what it leaves alone."""

import copy

import pytest
import torch
from torch import nn

from normscope import fused
from normscope.mend import freeze
from normscope.models.fusing import FusableSequential, using
from normscope.models.norms import (
    GREATEST_SCALE,
    MEAN_RANGE,
    MEAN_WIDTH,
    SCALE_WIDTH,
    NoisyBatchNorm2d,
)
from normscope.models.registry import build


def layers(channels=8):
    """A noisy layer and a plain one with the same weights."""
    torch.manual_seed(0)
    noisy, plain = NoisyBatchNorm2d(channels), nn.BatchNorm2d(channels)
    plain.load_state_dict(noisy.state_dict())
    return noisy, plain


def test_the_state_is_that_of_batch_normalization():
    noisy, plain = layers()
    assert noisy.state_dict().keys() == plain.state_dict().keys()
    x = torch.randn(16, 8, 4, 4)
    noisy(x), plain(x)
    assert all(
        torch.equal(value, plain.state_dict()[name]) for name, value in noisy.state_dict().items()
    )
    assert torch.equal(noisy.eval()(x), plain.eval()(x)), "no noise in eval mode"


def test_noise_follows_its_law():
    """With values of 0 only the shift is seen; the factor is that of a bias of 1 after it."""
    noisy, _ = layers(200)
    x = torch.randn(64, 200, 8, 8)
    with torch.no_grad():
        noisy.weight.zero_()
        shift = noisy(x)
        noisy.bias.fill_(1)
        both = noisy(x)
        again = copy.deepcopy(noisy)
        again.num_batches_tracked -= 1
        again.bias.zero_()
        factor = both - again(x)
    means = shift.mean((0, 2, 3))
    assert means.abs().max() <= MEAN_RANGE + 0.01
    assert means.std() == pytest.approx(2 * MEAN_RANGE / 12**0.5, rel=0.15)
    assert (shift - means[:, None, None]).abs().max() <= MEAN_WIDTH + 0.01
    scales = factor.mean((0, 2, 3))
    assert 0.99 < scales.min() < scales.max() < GREATEST_SCALE + 0.01
    assert scales.mean() == pytest.approx((1 + GREATEST_SCALE) / 2, abs=0.02)
    assert (factor - scales[:, None, None]).std() == pytest.approx(SCALE_WIDTH, rel=0.02)
    assert not torch.equal(shift[0], shift[1]), "every image has its own"


def test_every_step_has_its_own_noise_and_a_state_dict_brings_it_back():
    noisy, _ = layers()
    x = torch.randn(4, 8, 3, 3)
    before = torch.get_rng_state()
    first, state = noisy(x), copy.deepcopy(noisy.state_dict())
    second = noisy(x)
    assert torch.equal(torch.get_rng_state(), before), "nobody's generator is moved"
    assert not torch.equal(first, second)
    resumed, _ = layers()
    resumed.load_state_dict(state)
    assert torch.equal(resumed(x), second)


def test_layers_and_seeds_differ_and_a_network_is_built_alike_again():
    def seeds(seed):
        network = build(
            "small-resnet",
            norm="noisy-batch",
            in_channels=1,
            num_classes=4,
            image_size=8,
            seed=seed,
        )
        return [
            module.noise_seed
            for module in network.modules()
            if isinstance(module, NoisyBatchNorm2d)
        ]

    assert seeds(0) == seeds(0) != seeds(1)
    assert len(set(seeds(0))) == len(seeds(0)) > 1


def test_it_is_never_fused_as_a_plain_layer(monkeypatch):
    """With every size taken over, the fused network has the bits of the network by modules."""
    monkeypatch.setattr(fused, "LEAST_NUMBERS", 1)
    noisy, _ = layers()
    x = torch.randn(32, 8, 8, 8).contiguous(memory_format=torch.channels_last)
    expected = copy.deepcopy(noisy)(x).relu()
    with using(fused.normalize):
        assert torch.equal(FusableSequential(noisy, nn.ReLU())(x), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_type_and_memory_stay(dtype):
    noisy, _ = layers()
    if dtype == torch.float64:
        noisy.double()
    x = torch.randn(4, 8, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
    output = noisy(x)
    assert output.dtype == dtype
    assert output.is_contiguous(memory_format=torch.channels_last)


def test_frozen_it_has_no_noise():
    model = nn.Sequential(layers()[0]).eval()
    x = torch.randn(4, 8, 3, 3)
    expected = model(x)
    assert torch.equal(freeze(model).train()(x), expected)
