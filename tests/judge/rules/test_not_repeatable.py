"""A layer whose own forward cannot be repeated in float64: the rule says that it does not know."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import normscope


class OneTypeOnly(nn.Module):
    """Raises in float64, as a kernel of its own would: in every call, or at tiny inputs alone."""

    def __init__(self, width: int, always: bool = True):
        super().__init__()
        self.weight, self.eps, self.always = nn.Parameter(torch.ones(width)), 1e-6, always

    def forward(self, x):
        tiny = float(x.detach().abs().max()) < 0.01
        if x.dtype == torch.float64 and (self.always or tiny):
            raise TypeError("no kernel for float64")
        return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)


def missing(model: nn.Module, dtype: torch.dtype = torch.float32) -> dict[str, str]:
    torch.manual_seed(0)
    report = normscope.check(model.to(dtype), [torch.randn(32, 8, dtype=dtype)])
    return {each.code: each.missing for each in report.not_evaluated}


def test_the_reason_is_said():
    said = missing(nn.Sequential(nn.Linear(8, 16), OneTypeOnly(16), nn.Linear(16, 2)))
    assert "OneTypeOnly in float64: TypeError: no kernel" in said["NS515"]
    assert "place of eps: TypeError: no kernel" in said["NS516"]


def test_what_can_be_repeated_is_judged():
    said = missing(nn.Sequential(nn.Linear(8, 16), OneTypeOnly(16, always=False)))
    assert "NS515" not in said
    assert "place of eps" in said["NS516"]
    assert not {"NS515", "NS516"} & missing(nn.Sequential(nn.Linear(8, 16), nn.RMSNorm(16))).keys()


class RoundsInside(OneTypeOnly):
    def forward(self, x):
        if x.dtype == torch.float64:
            raise TypeError("no kernel for float64")
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def test_what_it_computes_in_16_bits_is_told_all_the_same():
    model = nn.Sequential(nn.Linear(8, 16), RoundsInside(16)).bfloat16()
    report = normscope.check(model, [torch.randn(32, 8).bfloat16()])
    assert any(f.code == "NS515" and "variance" in f.message for f in report)
    assert "NS515" in {each.code for each in report.not_evaluated}


class WithoutNames(nn.Module):
    """A global layer normalization whose names say nothing but that there is an epsilon."""

    def __init__(self, channels: int):
        super().__init__()
        self.a, self.c = (nn.Parameter(f(1, channels, 1)) for f in (torch.ones, torch.zeros))
        self.eps = 1e-8

    def forward(self, y):
        centred = y - y.mean((1, 2), keepdim=True)
        var = centred.square().mean((1, 2), keepdim=True)
        return self.a * centred * torch.rsqrt(var + self.eps) + self.c


class Scale(WithoutNames):
    def forward(self, y):
        return self.a * y + self.c


@pytest.mark.parametrize(("kind", "layers"), [(WithoutNames, 1), (Scale, 0)])
def test_vectors_and_an_epsilon_are_known_by_a_call(kind, layers):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 8, 3), kind(8), nn.Conv1d(8, 1, 1))
    assert normscope.check(model, [torch.randn(4, 1, 32)]).layers == layers
