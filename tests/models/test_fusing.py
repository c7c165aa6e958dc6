"""The seam: module by module by default, an implementation first where one is in use."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normscope.models import fusing
from normscope.models.fusing import FusableSequential


@pytest.mark.parametrize("activation", [None, nn.ReLU(), nn.GELU()])
@pytest.mark.parametrize("with_residual", [True, False])
def test_by_default_it_is_module_by_module(activation, with_residual):
    norm, x = nn.GroupNorm(2, 4), torch.randn(2, 4, 3, 3)
    residual = torch.randn(2, 4, 3, 3) if with_residual else None
    expected = norm(x) + residual if with_residual else norm(x)
    expected = expected if activation is None else activation(expected)
    assert torch.equal(fusing.normalize(norm, activation, x, residual), expected)


def test_an_implementation_is_asked_first_and_only_inside():
    norm, activation, x, asked = nn.BatchNorm2d(4), nn.ReLU(), torch.randn(2, 4, 3, 3), []

    def zeros(*case):
        asked.append(case)
        return torch.zeros(1) if case[3] is None else None

    with fusing.using(zeros):
        assert torch.equal(fusing.normalize(norm, activation, x), torch.zeros(1))
        assert fusing.normalize(norm, activation, x, x).shape == x.shape, (
            "None leaves the case to the modules"
        )
        with fusing.using(None):
            assert fusing.normalize(norm, activation, x).shape == x.shape
    assert fusing.normalize(norm, activation, x).shape == x.shape
    assert asked == [(norm, activation, x, None), (norm, activation, x, x)]


def test_a_failure_inside_leaves_nothing_behind():
    with pytest.raises(KeyError), fusing.using(lambda *case: torch.zeros(1)):
        raise KeyError
    assert fusing.normalize(nn.Identity(), None, torch.ones(2)).sum() == 2


def test_a_sequence_is_nn_sequential_and_offers_its_pairs():
    torch.manual_seed(0)
    modules = [
        nn.Conv2d(3, 4, 1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.BatchNorm2d(4),
        nn.GELU(),
        nn.BatchNorm2d(4),
    ]
    x, asked = torch.randn(2, 3, 5, 5), []
    with fusing.using(lambda norm, activation, x, residual: asked.append((norm, activation))):
        output = FusableSequential(*modules)(x)
    assert torch.equal(output, nn.Sequential(*modules)(x))
    assert asked == [(modules[1], modules[2]), (modules[3], None), (modules[5], None)]
    assert FusableSequential()(x) is x
