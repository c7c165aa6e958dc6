"""Conversion, freezing, recalibration and decay groups of layers that are not just PyTorch's."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from normscope.errors import InputError
from normscope.mend import convert, freeze, recalibrate, unfreeze, weight_decay_groups

X = torch.randn(6, 4, 5, 5, generator=torch.Generator().manual_seed(0)) * 2 + 1


class ActivatedNorm(nn.BatchNorm2d):
    def forward(self, x):
        return F.relu(super().forward(x))


class ActivatedGroupNorm(nn.GroupNorm):
    def forward(self, x):
        return F.relu(super().forward(x))


class PreActivatedNorm(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(F.relu(x))


class UnreadableNorm(nn.BatchNorm2d):
    def forward(self, x):
        return (x - self.running_mean[:, None, None]) * self.weight[:, None, None]


class Live(nn.BatchNorm2d):
    def forward(self, x):
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, True)


class Sticky(nn.BatchNorm2d):
    def train(self, mode: bool = True):
        return super().train(False)


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda module, args, output: output * 2)
    return layer


def patched(layer: nn.Module) -> nn.Module:
    layer.forward = lambda x: x
    return layer


NORM = nn.BatchNorm2d(4)


def norm() -> nn.Module:
    """A copy, which the fixture that looks for hooks left behind does not know: here they stay."""
    return copy.deepcopy(NORM)


def with_buffer(layer: nn.Module) -> nn.Module:
    """A norm that holds a tensor more than its own, as one that counts what it has seen does."""
    layer.register_buffer("seen", torch.zeros(1))
    return layer


@pytest.mark.parametrize("target", ["sync", "group", "instance", lambda old: nn.GroupNorm(2, 4)])
@pytest.mark.parametrize(
    "make",
    [
        lambda: ActivatedNorm(4),
        lambda: PreActivatedNorm(4),
        lambda: Sticky(4),
        lambda: with_buffer(norm()),
        lambda: hooked(norm()),
        lambda: patched(norm()),
        lambda: parametrizations.weight_norm(norm(), dim=None),
        lambda: nn.LazyBatchNorm2d(),
    ],
)
def test_nothing_that_a_layer_does_is_lost_in_a_conversion(make, target):
    layer = make()
    model = nn.Sequential(nn.BatchNorm2d(4), nn.ModuleDict({"norm": layer}))
    children = list(model.modules())
    with pytest.raises(InputError, match=rf"'1.norm' \({type(layer).__name__}\) is not converted"):
        convert(model, "batch", target)
    assert list(model.modules()) == children
    for name in HOOK_TABLES:  # those of lazy layers, which the fixture would find
        vars(layer).get(name, {}).clear()


HOOK_TABLES = ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_load_state_dict_pre_hooks",
               "_state_dict_hooks", "_backward_hooks")  # fmt: skip


@pytest.mark.parametrize(
    "make", [lambda old: ActivatedGroupNorm(2, 4), lambda old: nn.Sequential(old, nn.ReLU())]
)
def test_a_function_may_replace_a_subclass_by_all_that_it_does(make):
    model = convert(nn.Sequential(ActivatedNorm(4)), "batch", make)
    assert model(X).min() >= 0


def test_shared_layers_stay_shared():
    shared = nn.BatchNorm2d(4)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.ModuleList([shared]))
    convert(model, "batch", "group")
    assert isinstance(model[0], nn.GroupNorm)
    assert model[0] is model[2]
    assert model[0] is model[3][0]


def test_a_layer_in_a_plain_list_is_not_left_behind():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(4)
            self.steps = {"all": [(self.norm,)]}

        def forward(self, x):
            return self.steps["all"][0][0](x)

    with pytest.raises(InputError, match=r"'norm' \(BatchNorm2d\).*an attribute"):
        convert(Listed(), "batch", "group")


@pytest.mark.parametrize("target", ["sync", "group", "tracked"])
def test_types_modes_and_missing_biases_are_kept(target: str):
    old = nn.BatchNorm2d(4, bias=False, track_running_stats=target != "tracked").bfloat16()
    new = convert(nn.Sequential(old.eval()), "batch", target)[0]
    assert new.weight is old.weight
    assert new.bias is None
    assert not new.training
    assert all(b.dtype == torch.bfloat16 for b in new.buffers() if b.is_floating_point())
    assert new(X.bfloat16()).dtype == torch.bfloat16


def test_a_freeze_and_switched_statistics_survive_a_conversion():
    model = freeze(nn.Sequential(nn.BatchNorm2d(4)))
    mean = model[0].running_mean.fill_(2)
    synced = convert(copy.deepcopy(model), "batch", "sync").train()
    assert isinstance(synced[0], nn.SyncBatchNorm)
    assert not synced[0].training
    torch.testing.assert_close(synced(X), model(X))
    layer = nn.BatchNorm2d(4)
    layer.running_mean.copy_(mean)
    layer.track_running_stats = False
    expected = copy.deepcopy(layer).eval()(X)
    torch.testing.assert_close(convert(layer, "batch", "sync").eval()(X), expected)


def test_a_conversion_of_nothing_is_said():
    with pytest.raises(InputError, match="nothing to convert"):
        convert(nn.Sequential(nn.LayerNorm(4)), "batch", "group")
    with pytest.raises(InputError, match="no running statistics"):
        convert(nn.GroupNorm(2, 4), "group", "tracked")


@pytest.mark.parametrize("cls", [PreActivatedNorm, ActivatedNorm])
def test_recalibration_measures_what_is_normalized(cls):
    layer = cls(4)
    recalibrate(nn.Sequential(layer), [X[:2], X[2:]])
    x = F.relu(X) if cls is PreActivatedNorm else X
    torch.testing.assert_close(layer.running_mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(layer.running_var, x.transpose(0, 1).flatten(1).var(1))
    assert layer.num_batches_tracked == 2


def test_recalibration_refuses_what_it_cannot_measure():
    layer = UnreadableNorm(4)
    with pytest.raises(InputError, match=r"'0' \(UnreadableNorm\) cannot be recalibrated"):
        recalibrate(nn.Sequential(layer), [X])
    assert not layer.running_mean.any()


def test_recalibration_takes_inputs_by_keyword():
    class ByKeyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x):
            return self.norm(input=x)

    model = recalibrate(ByKeyword(), [X])
    torch.testing.assert_close(model.norm.running_mean, X.mean((0, 2, 3)))


def test_a_freeze_holds_for_subclasses_or_is_refused():
    model = freeze(nn.Sequential(ActivatedNorm(4), Sticky(4), PreActivatedNorm(4))).train()
    state = copy.deepcopy(model.state_dict())
    model(X)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with pytest.raises(InputError, match=r"'0' \(Live\) cannot be frozen"):
        freeze(nn.Sequential(Live(4)))


def test_unfreezing_trains_only_what_was_trained():
    layer = nn.BatchNorm2d(4)
    layer.bias.requires_grad_(False)
    model = unfreeze(freeze(freeze(nn.Sequential(layer))))
    assert model[0].weight.requires_grad
    assert not model[0].bias.requires_grad


def test_parametrized_weights_freeze_and_are_spared_from_decay():
    layer = parametrizations.weight_norm(norm(), dim=None)
    model = nn.Sequential(nn.Linear(4, 4), layer)
    decayed, spared = weight_decay_groups(model, 0.1)
    assert [p.shape for p in decayed["params"]] == [(4, 4)]
    assert {id(p) for p in layer.parameters()} < {id(p) for p in spared["params"]}
    freeze(model)
    assert not any(p.requires_grad for p in layer.parameters())
