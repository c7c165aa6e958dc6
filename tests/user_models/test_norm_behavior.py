"""What a normalization layer did is read from its input and output, whatever its class says."""

import pytest
import torch
from torch import nn

from norm_zoo import CASES, CHANNELS, varied, with_gains
from normscope.user_models.norm_behavior import behavior_of
from normscope.user_models.norm_layers import recognize


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [name for name in CASES if "activation" not in name])
def test_axis_and_kind_are_those_of_the_forward(name, dtype, seed):
    case = CASES[name]
    norm = with_gains(case.build())
    x = varied(seed, dtype)
    if dtype == torch.bfloat16 and "float32" not in name:
        norm = norm.bfloat16()
    y = case.call(norm, x)
    y = y[0] if isinstance(y, tuple) else y
    behavior = behavior_of(recognize(norm), x, y)
    assert behavior is not None
    assert (behavior.kind, behavior.channel_axis) == (case.kind, case.axis)
    if case.groups is not None:
        assert behavior.groups == case.groups


def unlike_any(x):
    return torch.tanh(3 * x) + x.roll(1, 1)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x * 0,
        lambda x: torch.ones_like(x),
        unlike_any,
        lambda x: x.relu(),
        lambda x: x * x.flip(0),
    ],
    ids=["zeros", "ones", "another", "relu", "mixed samples"],
)
def test_what_is_no_normalization_is_not_taken_for_one(make):
    x = varied()
    assert behavior_of(recognize(nn.LayerNorm(CHANNELS)), x, make(x)) is None


def test_too_few_values_say_nothing():
    norm = nn.LayerNorm(CHANNELS)
    x = torch.randn(3, CHANNELS)
    assert behavior_of(recognize(norm), x, norm(x)) is None
