"""One answer to what a normalization layer is, for watching, examining and mending."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import norm_zoo
from normscope.errors import InputError
from normscope.examining.examine import examine
from normscope.mend.freeze import weight_decay_groups
from normscope.user_models.norm_layers import is_norm, normalization_layers, recognize
from normscope.watching.watched_layers import find_layers


class Frozen(nn.Module):
    def __init__(self, channels):
        super().__init__()
        for name, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            self.register_buffer(name, torch.full((channels,), float(value)))
        self.eps = 1e-5

    def forward(self, x):
        shape = (1, -1, 1, 1)
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return x * scale.view(shape) + (self.bias - self.running_mean * scale).view(shape)


class NotANorm(nn.Module):
    """A vector and an epsilon, but with a module inside."""

    def __init__(self):
        super().__init__()
        self.weight, self.eps, self.inner = nn.Parameter(torch.ones(4)), 1e-5, nn.Linear(4, 4)


EXPECTED = {
    "batch": (nn.BatchNorm2d(4), "batch", "type", True, 4),
    "sync": (nn.SyncBatchNorm(4), "batch", "type", True, 4),
    "instance": (nn.InstanceNorm1d(4), "instance", "type", True, 4),
    "group": (nn.GroupNorm(2, 4), "group", "type", True, 4),
    "layer": (nn.LayerNorm((2, 3)), "layer", "type", True, 6),
    "rms": (nn.RMSNorm(4), "rms", "type", True, 4),
    "subclass": (norm_zoo.PermutedLayerNorm(4), "layer", "type", False, 4),
    "subclass that changes nothing": (
        type("Mine", (nn.LayerNorm,), {})(4),
        "layer",
        "type",
        True,
        4,
    ),
    "llama": (norm_zoo.LlamaRMSNorm(4), "rms", "weight and epsilon", False, 4),
    "frozen": (Frozen(4), "batch", "running statistics", False, 4),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_layer_says_what_it_was_taken_for_and_why(name):
    module, *expected = EXPECTED[name]
    norm = recognize(module)
    assert norm is not None
    assert [norm.kind, norm.recognized_by, norm.plain, norm.channels] == expected
    assert norm.eps == (None if name == "rms" else 1e-5)


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(4, 4),
        nn.PReLU(4),
        NotANorm(),
        nn.LocalResponseNorm(2),
        nn.Sequential(),
        nn.Embedding(3, 4),
    ],
)
def test_other_modules_are_none(module):
    assert recognize(module) is None
    assert not is_norm(module)


def test_watching_examining_and_mending_see_the_same_layers():
    model = nn.Sequential(
        *(module for module, *_ in EXPECTED.values()), nn.Linear(4, 4), NotANorm()
    )
    names = [str(index) for index in range(len(EXPECTED))]
    assert list(normalization_layers(model)) == names
    assert [layer.name for layer in find_layers(model)] == names
    assert [layer.name for layer in examine(model).layers] == names
    spared = {id(p) for p in weight_decay_groups(model, 0.1)[1]["params"]}
    norms = [p for m, *_ in EXPECTED.values() for p in m.parameters()]
    assert {id(p) for p in norms} <= spared
    assert id(model[-1].weight) not in spared


def test_a_forward_replaced_on_the_module_is_its_own():
    norm = nn.LayerNorm(4)
    norm.forward = lambda x: x
    assert not recognize(norm).plain


def test_a_parametrized_layer_keeps_its_kind():
    norm = nn.LayerNorm(4)
    parametrize.register_parametrization(norm, "weight", nn.Softplus())
    assert (recognize(norm).kind, recognize(norm).channels) == ("layer", 4)


def test_a_model_without_any_is_still_refused_by_watch():
    with pytest.raises(InputError, match="has no normalization layer"):
        find_layers(nn.Sequential(nn.Linear(2, 2)))
