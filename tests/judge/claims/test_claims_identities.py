"""Identities of a convolution before batch normalization, in float64, on our own networks.

The layer does not see the scale of the weights. Each identity must fail without normalization, or
nothing is tested.
"""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normscope.models.registry import build

EPS = 1e-30


def network(norm="batch", eps=EPS):
    model = build(
        "small-resnet",
        norm=norm,
        in_channels=1,
        num_classes=4,
        image_size=8,
        widths=(4, 8, 8),
        blocks_per_stage=1,
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = eps
    return model.double().train()


def batch():
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(16, 1, 8, 8, generator=generator, dtype=torch.float64)
    return images, torch.randint(4, (16,), generator=generator)


def gradients(model, weights):
    images, labels = batch()
    return torch.autograd.grad(F.cross_entropy(model(images), labels), weights)


def convolutions(model):
    return [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]


def cosines(model):
    weights = convolutions(model)
    pairs = zip(weights, gradients(model, weights), strict=True)
    return [abs(((w * g).sum() / (w.norm() * g.norm())).item()) for w, g in pairs]


def test_the_gradient_is_orthogonal_to_the_weights():
    assert max(cosines(network())) < 1e-12
    assert 1e-12 < max(cosines(network(eps=1e-5))) < 1e-2, "as far as eps lets it"
    assert max(cosines(network("none"))) > 1e-3


def relative_error(norm, factor):
    """Of "the gradient of weights that are `factor` times as large is `factor` times as small", for
    the stem.
    """
    model = network(norm)
    weight = convolutions(model)[0]
    (before,) = gradients(model, [weight])
    with torch.no_grad():
        weight.mul_(factor)
    (after,) = gradients(model, [weight])
    return float((after * factor - before).norm() / before.norm())


@pytest.mark.parametrize("factor", [0.01, 7.0])
def test_the_gradient_scales_as_one_over_the_weights(factor):
    assert relative_error("batch", factor) < 1e-10
    assert relative_error("none", factor) > 0.1


def train(norm, rates, decay, steps=12):
    """Directions of the convolutions' weights after plain SGD on them alone."""
    model = network(norm)
    weights = convolutions(model)
    for step in range(steps):
        grads = gradients(model, weights)
        with torch.no_grad():
            for weight, gradient in zip(weights, grads, strict=True):
                weight.mul_(1 - rates(0) * decay).sub_(rates(step) * gradient)
    return [(weight / weight.norm()).detach() for weight in weights]


@pytest.mark.parametrize(("norm", "equal"), [("batch", True), ("none", False)])
def test_weight_decay_is_an_exponential_learning_rate(norm, equal):
    """Li & Arora 2020, "An Exponential Learning Rate Schedule for Deep Learning", without momentum:
    with decay the weights are (1 - rate decay)^t times those of a run without, whose rate grows by
    (1 - rate decay)^-2 a step.
    """
    rate, decay = 0.05, 0.5
    shrinking = 1 - rate * decay
    decayed = train(norm, lambda step: rate, decay)
    grown = train(norm, lambda step: rate * shrinking ** -(2 * step + 1), 0.0)
    furthest = max(float((one - other).norm()) for one, other in zip(decayed, grown, strict=True))
    moved = max(
        float((one - other).norm())
        for one, other in zip(decayed, train(norm, lambda step: rate, 0.0), strict=True)
    )
    assert moved > 1e-4, "decay changed nothing that could be explained"
    assert (furthest < 1e-8) == equal, furthest
    assert math.isfinite(furthest)
